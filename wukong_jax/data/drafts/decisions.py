"""Defines what is decided of one column, with the reason."""

import dataclasses
from typing import Literal

from wukong_jax.data.drafts.profiles import ColumnProfile
from wukong_jax.schema import CategoricalColumn, DenseColumn

Kind = Literal["label", "time", "group", "domain", "weight", "number", "category", "bag", "sequence", "left out"]


@dataclasses.dataclass(frozen=True)
class Decision:
    """What a column becomes."""

    profile: ColumnProfile
    kind: Kind
    reason: str
    unsure: str = ""  # the other reading, and how to choose it
    entry: DenseColumn | CategoricalColumn | None = None  # of a feature

    @property
    def name(self) -> str:
        """The column's name."""
        return self.profile.name

    def leave_out(self, reason: str, unsure: str = "") -> "Decision":
        """Returns the decision to leave the column out instead."""
        return dataclasses.replace(self, kind="left out", reason=reason, unsure=unsure, entry=None)

    def doubt(self, unsure: str) -> "Decision":
        """Returns the decision with one more doubt."""
        return dataclasses.replace(self, unsure=f"{self.unsure}; {unsure}" if self.unsure else unsure)


def to_leave_out(name: str) -> str:
    """How to leave a column out."""
    return f"--drop={name}"


def to_keep(name: str) -> str:
    """How to keep a column that was left out."""
    return f"--keep={name}"
