"""`wukong-jax prepare_data` in a clone."""

from wukong_jax.cli.main import main

main("prepare_data")
