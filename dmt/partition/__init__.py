"""Partition of feature columns into towers, learned from a trained flat run."""
