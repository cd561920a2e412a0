"""Builds the report of a sweep: the page, the pictures and the result files."""
