"""Bytes on each link class, read off a compiled step."""
