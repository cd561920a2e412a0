"""`wukong-jax count_presets` in a clone."""

from wukong_jax.cli.main import main

main("count_presets")
