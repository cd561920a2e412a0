"""Benches: how fast data, tables and the train step are on this machine."""
