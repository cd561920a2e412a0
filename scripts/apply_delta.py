"""`wukong-jax apply_delta` in a clone."""

from wukong_jax.cli.main import main

main("apply_delta")
