"""`wukong-jax bench_accelerator` in a clone."""

from wukong_jax.cli.main import main

main("bench_accelerator")
