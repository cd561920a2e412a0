"""`wukong-jax evaluate` in a clone."""

from wukong_jax.cli.main import main

main("evaluate")
