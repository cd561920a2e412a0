"""`wukong-jax bench_growth` in a clone."""

from wukong_jax.cli.main import main

main("bench_growth")
