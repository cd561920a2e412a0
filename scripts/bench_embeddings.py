"""`wukong-jax bench_embeddings` in a clone."""

from wukong_jax.cli.main import main

main("bench_embeddings")
