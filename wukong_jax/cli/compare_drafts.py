"""Train on public sets with drafted and hand-written schemas, and keep the difference of their test AUC.

    wukong-jax compare_drafts --data=census_income=FOLDER,criteo_10k=FILE --seeds=0,1 --workdir=runs/drafts
        --output=docs/results/drafted_schemas

FOLDER and FILE are what the headers of the sets' configs say. The command can be stopped and started again: runs
resume, and results.json is updated after each set. Its rows are also in the README.md that it writes beside it.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from wukong_jax.cli.flags import CommandLine
from wukong_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's flags."""

    data: Annotated[Mapping[str, str], "file or folder of each set, as criteo_10k=FILE"]
    seeds: Annotated[tuple[int, ...], "seeds to train with"] = (0, 1)
    workdir: Annotated[str, "folder of the runs"]
    output: Annotated[str, "folder for results.json, such as docs/results/NAME"]
    command: CommandLine


def run(settings: Settings) -> None:
    """Trains on every set, and writes results.json."""
    from wukong_jax.bench.drafted_schemas import SETS, build_comparison, count_features, summarise_difference
    from wukong_jax.reports.kept_results import summarise_seeds, write_results
    from wukong_jax.scaling.repeats import train_seeds

    unknown = [name for name in settings.data if name not in SETS]
    if unknown:
        raise UserError(f"--data={unknown[0]}: no set of this name; {', '.join(SETS)}")
    rows: list[dict[str, Any]] = []
    for name, path in settings.data.items():
        folder = Path(settings.workdir) / name
        comparison = build_comparison(name, Path(path), folder)
        found = []
        for words, config in comparison.configs.items():
            summaries = train_seeds(config, folder / words.replace(", ", "_").replace(" ", "_"), settings.seeds)
            schema = config.data.build_source().schema()
            found.append({"set": name, "schema": words} | count_features(schema) | summarise_seeds(summaries))
        rows += found
        write_results(Path(settings.output), settings.command, rows)
        difference = summarise_difference(found)
        shown = ", ".join(f"{split} {value:+.5f}" for split, value in difference.items())
        print(f"{name}: AUC of the draft above the hand-written schema: {shown}", flush=True)
