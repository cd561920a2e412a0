"""Runs `python -m wukong_jax NAME ...` like `wukong-jax NAME ...`."""

from wukong_jax.cli.main import main

main()
