"""Trains a config with several seeds."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wukong_jax.api import train
from wukong_jax.config import RunConfig
from wukong_jax.runs.console import print_to_stderr


def train_seeds(config: RunConfig, folder: str | Path, seeds: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Trains a config with every seed in `folder/seed_<n>`; each run resumes if it was interrupted.

    Args:
      config: the config; its seed is replaced.
      folder: parent folder of the runs.
      seeds: the seeds, in order of training.

    Returns:
      The runs' summaries by seed.
    """
    return {
        seed: train(dataclasses.replace(config, seed=seed), f"{folder}/seed_{seed}", print_to_stderr) for seed in seeds
    }
