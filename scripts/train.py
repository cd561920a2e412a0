"""`wukong-jax train` in a clone."""

from wukong_jax.cli.main import main

main("train")
