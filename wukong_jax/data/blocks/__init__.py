"""Stores rows on disk in blocks and loads them as batches."""
