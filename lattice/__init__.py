"""Lattice: training few models that serve many domains and objectives."""
