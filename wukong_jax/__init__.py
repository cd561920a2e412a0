"""Wukong in JAX: data, embeddings, models, metrics and the trainer that DMT and Lattice stand on."""
