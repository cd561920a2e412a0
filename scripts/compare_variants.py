"""`wukong-jax compare_variants` in a clone."""

from wukong_jax.cli.main import main

main("compare_variants")
