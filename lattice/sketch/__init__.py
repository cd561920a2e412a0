"""Search over model sizes, and the sharding of each dense layer."""
