"""`wukong-jax partition_towers` in a clone."""

from wukong_jax.cli.main import main

main("partition_towers")
