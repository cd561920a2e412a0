"""`wukong-jax serve` in a clone."""

from wukong_jax.cli.main import main

main("serve")
