"""`wukong-jax bench_data` in a clone."""

from wukong_jax.cli.main import main

main("bench_data")
