"""Generate a prepared data set of planted domains and objectives, with known Bayes log loss.

    wukong-jax make_planted_portfolios --output=DIR [--domains=3] [--objectives=click,like] [--drift_degrees=60]

Every setting of the generator is a flag. With --delayed_objectives, DIR/conversions.npz is the conversion log of the
training rows. Prints DIR/report.json.
"""

import dataclasses
import json
from typing import Annotated

from wukong_jax.data.planted.portfolios_config import PlantedPortfoliosConfig
from wukong_jax.ranges import AtLeast


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's flags."""

    output: Annotated[str, "folder to create; must not exist"]
    planted: PlantedPortfoliosConfig
    sample_rows: Annotated[int, "rows drawn for the expected Bayes metrics", AtLeast(1)] = 1 << 18


def run(settings: Settings) -> None:
    """Writes the data set and prints its report."""
    from wukong_jax.data.planted.portfolios_folder import write_planted_portfolios

    report = write_planted_portfolios(settings.planted, settings.output, sample_rows=settings.sample_rows)
    print(json.dumps(report, indent=1))
