"""`python -m wukong_jax NAME ...`: the same as `wukong-jax NAME ...`."""

from wukong_jax.cli.main import main

main()
