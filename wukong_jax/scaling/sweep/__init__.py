"""Sweeps over models and sizes: configuration, units (one training run each) and the resulting points."""
