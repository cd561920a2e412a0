"""Compare drafted schemas with the hand-written ones of public sets by test AUC.

    wukong-jax compare_drafts --data=census_income=FOLDER,criteo_10k=FILE --workdir=runs/drafts
        --output=docs/results/drafted_schemas

FOLDER and FILE are what the headers of the sets' configs say. The command can be stopped and started again: runs
resume, and results.json and README.md are updated after each set.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from wukong_jax.cli.flags import CommandLine
from wukong_jax.cli.settings import ProgramFlags
from wukong_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(ProgramFlags):
    """The command's flags."""

    data: Annotated[Mapping[str, str], "file or folder of each set, as criteo_10k=FILE"]
    workdir: Annotated[str, "folder of the runs"]
    output: Annotated[str, "folder for results.json, such as docs/results/NAME"]
    command: CommandLine


def run(settings: Settings) -> None:
    """Trains on every set, and writes results.json."""
    from wukong_jax.bench.drafted_schemas import SETS, format_page, train_set
    from wukong_jax.files.whole_files import write_text_whole
    from wukong_jax.reports.kept_results import describe_here, write_results

    unknown = [name for name in settings.data if name not in SETS]
    if unknown:
        raise UserError(f"--data={unknown[0]}: no set of this name; {', '.join(SETS)}")
    rows: list[dict[str, Any]] = []
    output, here = Path(settings.output), describe_here()
    for name, path in settings.data.items():
        rows += train_set(name, Path(path), Path(settings.workdir) / name)
        write_results(output, settings.command, rows)
        write_text_whole(output / "README.md", format_page(rows, here["date"], here["machine"]))
        hand, draft = rows[-3], rows[-2]
        print(f"{name}: test AUC {draft['test_auc']:.5f} drafted, {hand['test_auc']:.5f} hand-written", flush=True)
