"""`wukong-jax keep_compiled` in a clone."""

from wukong_jax.cli.main import main

main("keep_compiled")
