"""`wukong-jax zip_windows` in a clone."""

from wukong_jax.cli.main import main

main("zip_windows")
