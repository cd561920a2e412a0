"""`wukong-jax compare_online` in a clone."""

from wukong_jax.cli.main import main

main("compare_online")
