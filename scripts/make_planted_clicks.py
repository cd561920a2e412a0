"""`wukong-jax make_planted_clicks` in a clone."""

from wukong_jax.cli.main import main

main("make_planted_clicks")
