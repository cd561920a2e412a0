"""Compares towers grouped by the tower partitioner (TP) with strided towers, for the same model."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dmt.partition.partitioner import PartitionOptions, Strategy
from dmt.partition.run import PartitionSettings, partition_run, write_partition
from wukong_jax.config import RunConfig
from wukong_jax.reports.kept_results import summarise_seeds
from wukong_jax.runs.open_run import open_run
from wukong_jax.scaling.repeats import train_seeds

STRATEGIES: tuple[Strategy, ...] = ("coherent", "diverse")


def compare_groupings(
    build: Callable[[str], RunConfig], data: str, variant: str, workdir: Path, seeds: Sequence[int], pictures: Path
) -> Iterator[dict[str, Any]]:
    """Trains a flat model once, partitions it by each strategy, then trains towers with each grouping and seed.

    Args:
      build: returns the config of `<data>/flat`, `<data>/<variant>` or `<data>/<variant>,<towers.json>`.
      data: name of the data set.
      variant: variant of the model with towers.
      workdir: folder of the runs; interrupted runs are resumed.
      seeds: seeds to train with; the flat model is trained with the first one only.
      pictures: folder for the picture of each partition.

    Yields:
      A row of results for each grouping, when its runs have ended.
    """
    train_seeds(build(f"{data}/flat"), workdir / "flat", seeds[:1])
    towers: dict[str, tuple[str, dict[str, Any]]] = {"strided": ("", {})}
    pictures.mkdir(parents=True, exist_ok=True)
    for strategy in STRATEGIES:
        file = workdir / f"towers_{strategy}.json"
        described, picture = _partition(workdir / "flat" / f"seed_{seeds[0]}", strategy, file)
        towers[f"TP, {strategy}"] = (f",{file}", described)
        shutil.copy(picture, pictures / f"{data}_{strategy}.png")
    for grouping, (suffix, described) in towers.items():
        config = build(f"{data}/{variant}{suffix}")
        summaries = train_seeds(config, workdir / grouping.replace(", ", "_"), seeds)
        row: dict[str, Any] = {"data": data, "grouping": grouping, "variant": variant}
        if described:
            row |= {"within": described["similarity"]["within"], "between": described["similarity"]["between"]}
            row |= {"planted_agreement": described.get("planted", {}).get("agreement")}
            row["towers"] = described["towers"]
        yield row | summarise_seeds(summaries)


def _partition(workdir: Path, strategy: Strategy, output: Path) -> tuple[dict[str, Any], Path]:
    """Partitions the columns of a trained run into four towers; writes them and a picture."""
    opened = open_run(str(workdir))
    described = partition_run(opened, PartitionSettings(PartitionOptions(towers=4, strategy=strategy, seed=0)))
    return described, write_partition(described, output, f"{opened.run.config.name}: {strategy}")
