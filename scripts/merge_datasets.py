"""`wukong-jax merge_datasets` in a clone."""

from wukong_jax.cli.main import main

main("merge_datasets")
