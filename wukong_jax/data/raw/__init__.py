"""Prepares raw files as row blocks: readers, encoders, vocabularies and built-in schemas."""
