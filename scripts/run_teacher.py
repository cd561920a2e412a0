"""`wukong-jax run_teacher` in a clone."""

from wukong_jax.cli.main import main

main("run_teacher")
