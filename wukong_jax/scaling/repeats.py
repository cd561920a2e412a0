"""Trains a config with several seeds."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wukong_jax.api import train
from wukong_jax.config import RunConfig
from wukong_jax.errors import UserError
from wukong_jax.runs.console import print_to_stderr


def train_seeds(config: RunConfig, folder: str | Path, seeds: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Trains a config with every seed in `folder/seed_<n>`; each run resumes if it was interrupted.

    Args:
      config: the config; its seed is replaced.
      folder: parent folder of the runs.
      seeds: the seeds, in order of training.

    Returns:
      The runs' summaries by seed.

    Raises:
      UserError: the seeds were not trained on the same rows, because a raw file changed between their starts.
    """
    summaries: dict[int, dict[str, Any]] = {}
    for seed in seeds:
        summary = train(dataclasses.replace(config, seed=seed), f"{folder}/seed_{seed}", print_to_stderr)
        for first, other in summaries.items():
            if summary["data_fingerprint"] != other["data_fingerprint"]:
                raise UserError(
                    f"{folder}/seed_{seed}: was trained on other rows than seed_{first}, so their spread means "
                    "nothing; remove one of the folders to train it again, or give another --workdir"
                )
        summaries[seed] = summary
    return summaries
