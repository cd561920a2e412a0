"""Data: raw files are prepared as row blocks and loaded as batches; synthetic data has a known best possible loss."""
