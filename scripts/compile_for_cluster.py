"""`wukong-jax compile_for_cluster` in a clone."""

from wukong_jax.cli.main import main

main("compile_for_cluster")
