"""`wukong-jax make_planted_portfolios` in a clone."""

from wukong_jax.cli.main import main

main("make_planted_portfolios")
