"""`wukong-jax infer_schema` in a clone."""

from wukong_jax.cli.main import main

main("infer_schema")
