"""`wukong-jax search_sketch` in a clone."""

from wukong_jax.cli.main import main

main("search_sketch")
