"""`wukong-jax nearest` in a clone."""

from wukong_jax.cli.main import main

main("nearest")
