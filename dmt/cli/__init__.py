"""Provides the commands for towers, which `wukong_jax.cli.commands` lists."""
