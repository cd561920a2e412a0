"""Dense models: pure functions that map dense features and pooled embeddings to logits."""
