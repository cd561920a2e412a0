"""`wukong-jax convert_flights` in a clone."""

from wukong_jax.cli.main import main

main("convert_flights")
