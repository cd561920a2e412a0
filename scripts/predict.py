"""`wukong-jax predict` in a clone."""

from wukong_jax.cli.main import main

main("predict")
