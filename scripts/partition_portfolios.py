"""`wukong-jax partition_portfolios` in a clone."""

from wukong_jax.cli.main import main

main("partition_portfolios")
