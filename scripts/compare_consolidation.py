"""`wukong-jax compare_consolidation` in a clone."""

from wukong_jax.cli.main import main

main("compare_consolidation")
