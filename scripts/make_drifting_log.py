"""`wukong-jax make_drifting_log` in a clone."""

from wukong_jax.cli.main import main

main("make_drifting_log")
