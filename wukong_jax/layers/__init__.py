"""Layers shared by the models of `wukong_jax.models`, `lattice` and `dmt`."""
