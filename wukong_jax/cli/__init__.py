"""Provides the commands of `wukong-jax`: one module per command, the parser and the exit codes."""
