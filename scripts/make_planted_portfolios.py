"""Writes a prepared data directory of planted portfolios: domains and objectives whose Bayes log loss is known.

    python scripts/make_planted_portfolios.py --output=DIR [--domains=3] [--objectives=click,like] [--drift_degrees=60]

Every setting of the generator is a flag; wukong_jax/data/planted_portfolios_config.py says what each means. With
--delayed_objectives, DIR/conversions.npz has the conversions of the training rows. Prints DIR/report.json.
"""

import argparse
import dataclasses
import json
import typing

from make_planted_clicks import add_flag

from wukong_jax.cli.command_line import run_script
from wukong_jax.data.planted.portfolios_config import PlantedPortfoliosConfig
from wukong_jax.data.planted.portfolios_folder import write_planted_portfolios


def main() -> None:
    """Parses, writes, prints the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="the folder to make; must not exist")
    hints = typing.get_type_hints(PlantedPortfoliosConfig)
    for field in dataclasses.fields(PlantedPortfoliosConfig):
        if hints[field.name] is bool:
            parser.add_argument(f"--{field.name}", action=argparse.BooleanOptionalAction, default=field.default)
        else:
            add_flag(parser, field.name, hints[field.name], field.default)
    parser.add_argument(
        "--sample_rows", type=int, default=1 << 18, help="of the expected Bayes metrics; default 262144"
    )
    settings = vars(parser.parse_args())
    output, sample_rows = settings.pop("output"), settings.pop("sample_rows")
    report = write_planted_portfolios(PlantedPortfoliosConfig(**settings), output, sample_rows=sample_rows)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    run_script(main)
