"""The field's networks for several domains and objectives, each on the same embeddings and trainer as Lattice's."""
