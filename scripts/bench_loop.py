"""`wukong-jax bench_loop` in a clone."""

from wukong_jax.cli.main import main

main("bench_loop")
