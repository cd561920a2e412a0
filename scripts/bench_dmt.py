"""`wukong-jax bench_dmt` in a clone."""

from wukong_jax.cli.main import main

main("bench_dmt")
