"""Holds what the user says of the columns, and reads what counts as 1 from `LABEL=TEXT` and `LABEL=NUMBER`."""

import dataclasses
from collections.abc import Mapping, Sequence

from wukong_jax.data.drafts.labels import LabelHints
from wukong_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Roles:
    """What the user says of the columns; everything else is guessed."""

    labels: Mapping[str, LabelHints]
    timestamp: tuple[str, ...] = ()
    group: str = ""
    domain: str = ""
    weight: str = ""
    drop: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()

    def named(self) -> list[tuple[str, str]]:
        """Returns (flag, column) for every column that the user named."""
        single = [("group", self.group), ("domain", self.domain), ("weight", self.weight)]
        lists = [("label", tuple(self.labels)), ("timestamp", self.timestamp), ("drop", self.drop), ("keep", self.keep)]
        named = [(flag, name) for flag, names in lists for name in names]
        return named + [(flag, name) for flag, name in single if name]


def parse_label_hints(
    labels: Sequence[str], positive: Sequence[str], threshold: Sequence[str]
) -> dict[str, LabelHints]:
    """Reads what counts as 1.

    Args:
      labels: raw columns of the labels.
      positive: texts "LABEL=TEXT"; with a single label, "TEXT" will do.
      threshold: texts "LABEL=NUMBER".

    Returns:
      The hints of every label.

    Raises:
      UserError: a text names no label, has no number, or one label gets both.
    """
    hints = dict.fromkeys(labels, LabelHints())
    for given in positive:
        label, text = _divide("positive", given, labels)
        hints[label] = LabelHints((*hints[label].positive, text))
    for given in threshold:
        label, text = _divide("threshold", given, labels)
        if hints[label] != LabelHints():
            raise UserError(f"--threshold={given}: {label} has a --positive or --threshold already; give one")
        try:
            hints[label] = LabelHints(threshold=float(text))
        except ValueError:
            raise UserError(f"--threshold={given}: {text!r} is not a number") from None
    return hints


def _divide(flag: str, given: str, labels: Sequence[str]) -> tuple[str, str]:
    for label in sorted(labels, key=len, reverse=True):
        if given.startswith(f"{label}="):
            return label, given[len(label) + 1 :]
    if len(labels) == 1 and "=" not in given:
        return labels[0], given
    what = "NUMBER" if flag == "threshold" else "TEXT"
    raise UserError(f"--{flag}={given}: not LABEL={what} with a label of {', '.join(labels)}")
