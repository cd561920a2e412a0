"""`wukong-jax plan_sharding` in a clone."""

from wukong_jax.cli.main import main

main("plan_sharding")
