"""Scaling curves: ladders of models, the sweep over them, the fitted law and the report."""
