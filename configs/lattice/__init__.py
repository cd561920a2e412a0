"""Lattice: several domains and objectives, delayed conversions, teachers, filters and searches for sizes."""
