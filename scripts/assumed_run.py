"""What compile_for_cluster.py and plan_sharding.py share: a run's config and schema where its rows are not."""

import argparse
import sys
from typing import TYPE_CHECKING

from wukong_jax.cli.command_line import parse_config_flags
from wukong_jax.config import RunConfig

if TYPE_CHECKING:
    from wukong_jax.schema import Schema


def build_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser of flags beside the config's own, with those that say what the rows would be."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog="--config=FILE names the run; --config.key=value changes it.",
    )
    parser.add_argument("--schema", default="", help="a built-in schema's name or a schema file; default: the config's")
    parser.add_argument("--data", default="", help="a folder of prepared data, for its schema")
    parser.add_argument(
        "--table_rows", default="", help="rows of the tables that only data would size: one number, or one for each"
    )
    return parser


def read_run(
    arguments: argparse.Namespace, config_flags: list[str], description: str | None
) -> tuple[RunConfig, "Schema"]:
    """The config, and the schema with the rows that the flags assume."""
    from wukong_jax.clusters.assumed_schema import assume_rows, choose_schema, parse_table_rows

    flags = [sys.argv[0], *config_flags, "--workdir=unused"]
    assumed = arguments.schema or arguments.data or arguments.table_rows
    if assumed and not any(flag.startswith("--config.data.path=") for flag in config_flags):
        flags.insert(-1, "--config.data.path=unread")  # a config refuses to name no rows
    config, _ = parse_config_flags(flags, description or "")
    schema = choose_schema(config.data, arguments.schema, arguments.data)
    return config, assume_rows(schema, parse_table_rows(arguments.table_rows))
