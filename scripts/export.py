"""`wukong-jax export` in a clone."""

from wukong_jax.cli.main import main

main("export")
