"""Scaling curves: ladders of model sizes, sweeps over them, fitted scaling laws and reports."""
