"""The commands of Lattice; `wukong_jax.cli.commands` lists them."""
