"""Writes a prepared data directory of planted clicks, whose Bayes log loss and AUC are known.

    python scripts/make_planted_clicks.py --output=DIR [--fields=16] [--orders=1,2,4] [--order_shares=0.3,0.4,0.3]

Every setting of the generator is a flag. Prints DIR/report.json.
"""

import argparse
import dataclasses
import json
import typing

from wukong_jax.cli.command_line import run_script
from wukong_jax.data.planted.clicks import PlantedClicksConfig, write_planted_clicks


def main() -> None:
    """Parses, writes, prints the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="the folder to make; must not exist")
    hints = typing.get_type_hints(PlantedClicksConfig)
    for field in dataclasses.fields(PlantedClicksConfig):
        add_flag(parser, field.name, hints[field.name], field.default)
    settings = vars(parser.parse_args())
    output = settings.pop("output")
    print(json.dumps(write_planted_clicks(PlantedClicksConfig(**settings), output), indent=1))


def add_flag(parser: argparse.ArgumentParser, name: str, hint: typing.Any, default: typing.Any) -> None:
    """Adds the flag of one setting; tuples are comma-separated."""
    if typing.get_origin(hint) is typing.Literal:
        parser.add_argument(f"--{name}", choices=typing.get_args(hint), default=default, help=f"default {default}")
    elif typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        text = ",".join(map(str, default))

        def parse_list(value: str) -> tuple[typing.Any, ...]:
            return tuple(item(part) for part in value.split(","))

        parse_list.__name__ = f"comma-separated {item.__name__}"
        parser.add_argument(f"--{name}", type=parse_list, default=default, help=f"default {text}")
    else:
        parser.add_argument(f"--{name}", type=hint, default=default, help=f"default {default}")


if __name__ == "__main__":
    run_script(main)
