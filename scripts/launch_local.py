"""`wukong-jax launch_local` in a clone."""

from wukong_jax.cli.main import main

main("launch_local")
