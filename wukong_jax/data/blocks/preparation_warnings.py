"""Finds what is probably a mistake in a prepared data set, from its report."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from wukong_jax.data.blocks.row_blocks import SPLITS
from wukong_jax.messages import join_some

_UNKNOWN_LIMIT = 0.5  # share of unknown values of a split that is warned of
_UNKNOWN_MARGIN = 0.2  # by which it exceeds the training rows' share
_NAMES_SHOWN = 8


def list_warnings(report: Mapping[str, Any], unseen_positives: Mapping[str, Iterable[str]]) -> list[str]:
    """Lists warnings about a prepared data set.

    Args:
      report: report of the preparation, see `preparation_report`.
      unseen_positives: for each label, the texts of `positive` that no row has.

    Returns:
      One line each.
    """
    empty = report.get("empty_files", [])
    lines = [f"no rows in {len(empty)} of {len(report['inputs'])} input files: {_name_some(empty)}"] if empty else []
    for label, texts in unseen_positives.items():
        shown = _name_some(texts)
        if shown:
            lines.append(f"label {label!r}: no row has the `positive` value {shown}; see how the raw file writes it")
    lines += _list_one_sided_labels(report)
    lines += _list_unknown_values(report["unknown_share"])
    if report["constant_columns"]:
        names = _name_some(report["constant_columns"])
        lines.append(f"no variation in the training rows, so nothing can be learned from: {names}")
    return lines


def _list_one_sided_labels(report: Mapping[str, Any]) -> Iterator[str]:
    for label, rates in report["label_rate"].items():
        for split, rate in rates.items():
            if not report["rows"][split]:
                continue
            if rate is None:
                yield f"label {label!r}: no {split} row has it (all values are missing), so it is not measured there"
            elif report["label_classes"][label][split] == 1:
                yield f"label {label!r}: is {rate:.0f} in every {split} row that has it; AUC and NE need both 0 and 1"


def _list_unknown_values(shares: Mapping[str, Mapping[str, float | None]]) -> Iterator[str]:
    for name, by_split in shares.items():
        train = by_split[SPLITS[0]] or 0.0
        found = [
            f"{share:.0%} of the {split} values"
            for split, share in by_split.items()
            if share is not None and share > _UNKNOWN_LIMIT and share > train + _UNKNOWN_MARGIN
        ]
        if found:
            yield (
                f"column {name!r}: {' and '.join(found)} are unknown, {train:.0%} of the training values; are they "
                "written in another way in those rows, or new in each row (then hash them or leave the column out)?"
            )


def _name_some(names: Iterable[str]) -> str:
    return join_some([repr(name) for name in names], _NAMES_SHOWN)
