"""Configs of Lattice: several domains and objectives, delayed conversions, teachers, feature selection, size search."""
