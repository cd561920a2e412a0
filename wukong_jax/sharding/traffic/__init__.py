"""Counts the bytes and messages that a compiled step sends over the slow and the fast links."""
