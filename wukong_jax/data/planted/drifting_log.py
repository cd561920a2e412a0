"""Generates a log of clicks whose items come and go, with known Bayes log loss by day.

    true logit = bias + item_deviation * quality(item) + pair_deviation * taste(user) . look(item) / sqrt(width)

with independent standard normal numbers. An item lives in a slot, and the slot's Zipf frequency is the item's. Every
day each slot gets a new item with the probability `turnover`; its id was never used before, and an id that left does
not come back. These are our own choices.
"""

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.special import expit, xlogy

from wukong_jax.data.blocks.random_streams import open_stream
from wukong_jax.data.planted.drifting_log_config import DriftingLogConfig
from wukong_jax.files.whole_folder import write_whole_folder
from wukong_jax.schema import CategoricalColumn, LabelColumn, Schema, Source, schema_to_json
from wukong_jax.strict_mapping import to_mapping

_FIRST_DAY = datetime.date(2024, 1, 1)
_SECONDS = 86_400


class DriftingLog:
    """The generator; days are drawn in order."""

    def __init__(self, config: DriftingLogConfig) -> None:
        """Draws users and the first items."""
        self.config = config
        self._random = open_stream(config.seed, 0)
        frequencies = np.arange(1, config.items + 1) ** -config.zipf_exponent
        self._frequencies = self._random.permutation(frequencies / frequencies.sum())
        self._taste = self._random.normal(size=(config.users, config.latent_width))
        self._item = np.arange(config.items)
        self._quality = self._random.normal(size=config.items)
        self._look = self._random.normal(size=(config.items, config.latent_width))
        self.born = config.items  # items so far
        self._day = 0

    def draw_day(self) -> tuple[pl.DataFrame, np.ndarray]:
        """Draws the next day.

        Returns:
          The rows: time (seconds since 1970), user, item, click; and their true probabilities, [rows] float64.
        """
        config, random = self.config, self._random
        if self._day:
            new = np.flatnonzero(random.random(config.items) < config.turnover)
            self._item[new] = self.born + np.arange(len(new))
            self._quality[new] = random.normal(size=len(new))
            self._look[new] = random.normal(size=(len(new), config.latent_width))
            self.born += len(new)
        user = random.integers(config.users, size=config.rows_per_day)
        slot = random.choice(config.items, config.rows_per_day, p=self._frequencies)
        pairs = np.einsum("nd,nd->n", self._taste[user], self._look[slot]) / np.sqrt(config.latent_width)
        chance = expit(config.bias + config.item_deviation * self._quality[slot] + config.pair_deviation * pairs)
        start = int((_FIRST_DAY - datetime.date(1970, 1, 1)).days + self._day) * _SECONDS
        columns = {
            "time": start + np.sort(random.integers(_SECONDS, size=len(user))),
            "user": user,
            "item": self._item[slot],
            "click": (random.random(len(user)) < chance).astype(np.int8),
        }
        self._day += 1
        return pl.DataFrame(columns), chance


def describe_drifting_log() -> Schema:
    """Returns the schema of the files."""
    return Schema(
        "drifting_log",
        Source("parquet"),
        (LabelColumn("click"),),
        categorical=(CategoricalColumn("user"), CategoricalColumn("item", min_count=2)),
        timestamp="time",
    )


def write_drifting_log(config: DriftingLogConfig, output: str | Path) -> dict[str, Any]:
    """Writes `log/<day>.parquet`, `schema.json` and `report.json`.

    Args:
      config: the settings.
      output: the folder to create; it must not exist.

    Returns:
      The report: settings, items over all days, and the Bayes log loss by day.

    Raises:
      UserError: the folder exists, or cannot be written.
    """
    log, bayes = DriftingLog(config), {}
    with write_whole_folder(Path(output)) as aside:
        (aside / "log").mkdir()
        for day in range(config.days):
            rows, chance = log.draw_day()
            name = (_FIRST_DAY + datetime.timedelta(day)).isoformat()
            rows.write_parquet(aside / "log" / f"{name}.parquet")
            bayes[name] = float(-(xlogy(chance, chance) + xlogy(1 - chance, 1 - chance)).mean())
        report = {"settings": to_mapping(config), "items": log.born, "bayes_log_loss": bayes}
        (aside / "schema.json").write_text(schema_to_json(describe_drifting_log()), encoding="utf-8")
        (aside / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report
