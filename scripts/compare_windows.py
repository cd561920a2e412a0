"""`wukong-jax compare_windows` in a clone."""

from wukong_jax.cli.main import main

main("compare_windows")
