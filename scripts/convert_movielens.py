"""`wukong-jax convert_movielens` in a clone."""

from wukong_jax.cli.main import main

main("convert_movielens")
