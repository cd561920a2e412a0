"""`wukong-jax compare_groupings` in a clone."""

from wukong_jax.cli.main import main

main("compare_groupings")
