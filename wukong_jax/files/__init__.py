"""Writes files and folders atomically, and locks files between processes."""
