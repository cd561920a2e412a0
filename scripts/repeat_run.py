"""Trains one config with several seeds and writes the mean and spread of its metrics, and the first seed's pictures.

    python scripts/repeat_run.py --config=F --workdir=W --seeds=0,1,2 --output=docs/results/NAME [--config.key=value]

Each seed is a run of its own in W/seed_<n>, and resumes like any; started again, the command goes on with what is
missing.
"""

import dataclasses
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wukong_jax.cli.command_line import parse_config_flags, run_script, take_flag
from wukong_jax.config import RunConfig
from wukong_jax.config_upgrade import upgrade_config
from wukong_jax.errors import UserError
from wukong_jax.strict_mapping import list_changes


def parse_seeds(text: str) -> list[int]:
    """Whole numbers separated by commas."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds = {text!r}: expected whole numbers separated by commas, such as 0,1,2") from None


def train_seeds(config: RunConfig, folder: str | Path, seeds: list[int]) -> dict[int, dict[str, Any]]:
    """Trains a config with every seed, in `folder/seed_<n>`; seed to summary."""
    from wukong_jax.api import train

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    return {seed: train(dataclasses.replace(config, seed=seed), f"{folder}/seed_{seed}", say) for seed in seeds}


def parse_variant(arguments: list[str], config: str, folder: str | Path, description: str) -> RunConfig:
    """The config `FILE:variant`, with the overrides that the arguments hold beside the script's own name."""
    # The config comes first: overrides of its keys are flags only after it.
    flags = [arguments[0], f"--config={config}", f"--workdir={folder}", *arguments[1:]]
    return parse_config_flags(flags, description)[0]


def claim_made_folder(folder: Path, made_of: Mapping[str, Any]) -> None:
    """Notes beside a folder of rows what they are made of, so that others are not taken for them.

    Raises:
      UserError: the folder was made of something else.
    """
    from wukong_jax.files.whole_files import write_text_whole

    note = folder.with_name(f"{folder.name}.made_of.json")
    made = json.loads(note.read_text()) if note.exists() else made_of
    if "format" in made:  # a `config.data` of an earlier version
        upgrade_config({"data": made})
    for name, (old, new) in list_changes(made, made_of).items():
        raise UserError(f"{folder}: made with {name} = {old!r}, not {new!r}; give another --workdir")
    note.parent.mkdir(parents=True, exist_ok=True)
    write_text_whole(note, json.dumps(made_of, indent=1) + "\n")


def main() -> None:
    """Parses, trains every seed, writes results.json."""
    arguments = list(sys.argv)
    seeds_text, output = take_flag(arguments, "seeds"), take_flag(arguments, "output")
    config, workdir = parse_config_flags(arguments, __doc__ or "")
    seeds = parse_seeds(seeds_text)
    from wukong_jax.reports.kept_results import summarise_seeds, write_results

    summaries = train_seeds(config, workdir, seeds)
    row = summarise_seeds(summaries)
    for picture in Path(f"{workdir}/seed_{seeds[0]}/pictures").glob("*.png"):  # of the first seed's run
        Path(output).mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, output)
    path = write_results(Path(output), "python " + " ".join(sys.argv), [row])
    for metric in ("auc", "log_loss"):
        if f"test_{metric}" in row:
            print(f"test {metric}: {row[f'test_{metric}']:.6f} +- {row[f'test_{metric}_std'] or 0:.6f}")
    print(f"wrote {path}")


if __name__ == "__main__":
    run_script(main)
