"""Configs of scaling curves: sweeps over models, sizes and seeds."""
