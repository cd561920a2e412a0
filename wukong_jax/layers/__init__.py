"""Layers that models, lattice and dmt share."""
