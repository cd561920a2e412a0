"""`wukong-jax bench_serving` in a clone."""

from wukong_jax.cli.main import main

main("bench_serving")
