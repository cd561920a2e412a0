"""Runs a command in this process, as `wukong-jax NAME ...` does, but without its exit codes."""

from wukong_jax.cli.commands import load_command
from wukong_jax.cli.parser import parse_settings


def run_command(name: str, *flags: str) -> None:
    command = load_command(name)
    command.run(parse_settings(command.Settings, flags, name, ""))
