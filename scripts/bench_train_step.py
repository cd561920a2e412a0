"""`wukong-jax bench_train_step` in a clone."""

from wukong_jax.cli.main import main

main("bench_train_step")
