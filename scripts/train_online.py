"""`wukong-jax train_online` in a clone."""

from wukong_jax.cli.main import main

main("train_online")
