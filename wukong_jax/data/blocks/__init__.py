"""Rows on disk in blocks, and the loader that makes batches of them."""
