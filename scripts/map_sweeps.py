"""`wukong-jax map_sweeps` in a clone."""

from wukong_jax.cli.main import main

main("map_sweeps")
