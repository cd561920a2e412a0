"""The commands of towers; `wukong_jax.cli.commands` lists them."""
