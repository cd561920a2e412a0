"""Trains towers grouped by the tower partitioner (TP) against strided towers, and keeps test AUC, mean and spread.

    python scripts/compare_groupings.py --config=F --data=NAME --variant=M --seeds=0,1,2 --workdir=W
        --output=docs/results/dmt_partitioner [--config.key=value]

Config `F:NAME/flat` is trained once and partitioned (coherent and diverse); then `F:NAME/M` with strided towers and
with each partition is trained with every seed. Runs resume; rows of other data sets in results.json stay.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from repeat_run import parse_seeds, parse_variant, train_seeds

from wukong_jax.cli.command_line import parse_config_flags, run_script, take_flag

STRATEGIES = ("coherent", "diverse")


def main() -> None:
    """Parses, trains, partitions, trains again, writes results.json."""
    arguments = list(sys.argv)
    names = ("data", "variant", "seeds", "output", "config", "workdir")
    flags = {name: take_flag(arguments, name) for name in names}
    if not flags["config"]:
        parse_config_flags(arguments, __doc__ or "")  # prints the help
    from wukong_jax.reports.kept_results import summarise_seeds, write_results

    seeds, workdir = parse_seeds(flags["seeds"]), Path(flags["workdir"])
    train_variant(arguments, flags, "flat", workdir / "flat", seeds[:1])
    towers = {"strided": ("", None)}
    for strategy in STRATEGIES:
        file = workdir / f"towers_{strategy}.json"
        described, picture = partition(workdir / "flat" / f"seed_{seeds[0]}", strategy, file)
        towers[f"TP, {strategy}"] = (f",{file}", described)
        Path(flags["output"]).mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, Path(flags["output"]) / f"{flags['data']}_{strategy}.png")
    rows = keep_other_rows(Path(flags["output"]), flags["data"])
    for grouping, (suffix, described) in towers.items():
        folder = workdir / grouping.replace(", ", "_")
        summaries = train_variant(arguments, flags, flags["variant"] + suffix, folder, seeds)
        row: dict[str, Any] = {"data": flags["data"], "grouping": grouping, "variant": flags["variant"]}
        if described is not None:
            row |= {"within": described["similarity"]["within"], "between": described["similarity"]["between"]}
            row |= {"planted_agreement": described.get("planted", {}).get("agreement")}
            row["towers"] = described["towers"]
        rows.append(row | summarise_seeds(summaries))
        write_results(Path(flags["output"]), "python " + " ".join(sys.argv), rows)
        print(f"{grouping}: test AUC {rows[-1]['test_auc']:.5f} +- {rows[-1]['test_auc_std'] or 0:.5f}")


def train_variant(
    arguments: list[str], flags: dict[str, str], variant: str, folder: Path, seeds: list[int]
) -> dict[int, dict[str, Any]]:
    """Trains one variant with every seed, in `folder/seed_<n>`; seed to summary."""
    config = parse_variant(arguments, f"{flags['config']}:{flags['data']}/{variant}", folder, __doc__ or "")
    return train_seeds(config, folder, seeds)


def partition(workdir: Path, strategy: str, output: Path) -> tuple[dict[str, Any], Path]:
    """Groups the columns of a trained run into four towers and writes them beside a picture."""
    from dmt.partition.partitioner import PartitionOptions
    from dmt.partition.run import PartitionSettings, partition_run, write_partition
    from wukong_jax.runs.open_run import open_run

    options = PartitionOptions(towers=4, strategy=strategy, seed=0)  # type: ignore[arg-type]
    opened = open_run(str(workdir))
    described = partition_run(opened, PartitionSettings(options))
    return described, write_partition(described, output, f"{opened.run.config.name}: {strategy}")


def keep_other_rows(folder: Path, data: str) -> list[dict[str, Any]]:
    """The rows of results.json that are not of this data set."""
    path = folder / "results.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    return [row for row in rows if row.get("data") != data]


if __name__ == "__main__":
    run_script(main)
