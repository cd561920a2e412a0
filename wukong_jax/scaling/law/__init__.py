"""Fits scaling laws and compares the compute that two models need for the same loss."""
