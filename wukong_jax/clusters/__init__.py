"""Ahead-of-time compilation of the train step for named TPU and GPU clusters, on a machine without accelerators."""
