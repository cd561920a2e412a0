"""Baseline networks for several domains and objectives, with the same embeddings and trainer as Lattice networks."""
