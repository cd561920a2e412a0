"""`wukong-jax repeat_run` in a clone."""

from wukong_jax.cli.main import main

main("repeat_run")
