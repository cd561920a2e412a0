"""`wukong-jax scaling_curve` in a clone."""

from wukong_jax.cli.main import main

main("scaling_curve")
