"""`wukong-jax compare_drafts` in a clone."""

from wukong_jax.cli.main import main

main("compare_drafts")
