"""Dense models: pure functions of dense features and pooled embeddings to logits."""
