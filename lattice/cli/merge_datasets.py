"""Merge prepared data sets of different schemas into one, with a domain for each.

Then one network learns from all of them:

    wukong-jax merge_datasets --inputs=feed=DIR_A,ads=DIR_B --output=DIR [--rename=ads:item=ad_item]

Each data set becomes a domain, or several if it has domains of its own (`feed/home`). A column or label that several
have under one name is one: vocabularies are united, so that a user has one embedding in all. What a data set lacks has
no value in its rows, and its labels are masked. --rename keeps columns apart that only share a name. Splits stay;
within each, rows are merged by time if all data sets have timestamps in ascending order, else interleaved evenly.

Train on the output with --config.data.factory=blocks --config.data.path=DIR; evaluate measures each domain, and
predict scores raw rows of one data set, which --data_set names. An exported run scores arrays only, no raw rows.
"""

import dataclasses
import sys
from collections.abc import Mapping
from typing import Annotated

from wukong_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's flags."""

    inputs: Annotated[Mapping[str, str], "folders of prepared data, or their URLs on an object store, by a short name"]
    output: Annotated[str, "folder to create; must not exist"]
    rename: Annotated[Mapping[str, str], "other names of columns or labels of a data set, as ads:item=ad_item"] = (
        dataclasses.field(default_factory=dict)
    )

    def __post_init__(self) -> None:
        """Checks that there is a data set."""
        if not self.inputs:
            raise UserError("--inputs: none given; give prepared folders, as feed=DIR,ads=OTHER")


def run(settings: Settings) -> None:
    """Merges the data sets and prints what they share and the report."""
    from pathlib import Path

    from lattice.merging.merge_datasets import merge_datasets
    from wukong_jax.cli.progress import Progress
    from wukong_jax.data.blocks.preparation_report import format_report

    report = merge_datasets(settings.inputs, Path(settings.output), settings.rename, Progress())
    for line in report["warnings"]:
        print(f"warning: {line}", file=sys.stderr, flush=True)
    print("\n".join(report["merged"]["columns"]))
    print(f"{format_report(report)}\nrows: {report['merged']['order']}; wrote {settings.output}")
