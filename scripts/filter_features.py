"""`wukong-jax filter_features` in a clone."""

from wukong_jax.cli.main import main

main("filter_features")
