"""`wukong-jax convert_kuairand` in a clone."""

from wukong_jax.cli.main import main

main("convert_kuairand")
