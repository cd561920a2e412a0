"""Lattice: many domains and objectives in few models."""
