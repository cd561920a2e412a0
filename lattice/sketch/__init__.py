"""Lattice Sketch: search over model sizes, and choice of a sharding for each dense layer."""
