"""Provides the commands of Lattice, which `wukong_jax.cli.commands` lists."""
