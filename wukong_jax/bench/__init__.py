"""Benchmarks the speed of data, tables and the train step on this machine."""
