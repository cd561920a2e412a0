"""Generate a prepared data set of planted clicks, with known Bayes log loss and AUC.

    wukong-jax make_planted_clicks --output=DIR [--fields=16] [--orders=1,2,4] [--order_shares=0.3,0.4,0.3]

Every setting of the generator is a flag. Prints DIR/report.json.
"""

import dataclasses
import json
from typing import Annotated

from wukong_jax.data.planted.clicks_config import PlantedClicksConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's flags."""

    output: Annotated[str, "folder to create; must not exist"]
    planted: PlantedClicksConfig


def run(settings: Settings) -> None:
    """Writes the data set and prints its report."""
    from wukong_jax.data.planted.clicks import write_planted_clicks

    print(json.dumps(write_planted_clicks(settings.planted, settings.output), indent=1))
