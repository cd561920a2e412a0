"""Writes reports of runs (pages and pictures) and results of experiments."""
