"""Scaling curves: sweeps over models, sizes and seeds."""
