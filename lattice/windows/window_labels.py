"""Label columns per attribution window: each delayed objective becomes one objective per window (Lattice 3.2.1).

    conversion  ->  conversion@1h, conversion@1d, conversion@7d

In a training row, only the column of the window assigned to it is observed (label_mask 1). The loss thus trains only
the assigned head, in any model with one logit per objective. The last of the K columns is used for serving. The paper's
K heads on one backbone are thus O + K - 1 objectives of one model.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from wukong_jax.errors import UserError
from wukong_jax.schema import LabelColumn, Schema

_NOT_DELAYED = -1


@dataclasses.dataclass(frozen=True)
class WindowLabels:
    """The O' label columns of training rows, and where each comes from."""

    labels: tuple[LabelColumn, ...]  # O' columns
    source: np.ndarray  # [O'] int64, index among the impressions' labels
    delayed: np.ndarray  # [O'] int64, index among the delayed objectives, -1: not delayed
    window: np.ndarray  # [O'] int64, index of the window, -1: not delayed
    seconds: tuple[int, ...]  # lengths of the K windows

    def judge(
        self, labels: np.ndarray, label_mask: np.ndarray, window: np.ndarray, converted: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Computes the labels of training rows, each for the one window assigned to it.

        Args:
          labels: [B, O] labels of the impressions; those of delayed objectives are not read.
          label_mask: [B, O] of the impressions.
          window: [B] int, the window assigned to each row.
          converted: [B, delayed objectives] bool, whether it converted within that window.

        Returns:
          (labels, label_mask), both [B, O'] float32.
        """
        known = np.where(self.window == _NOT_DELAYED, labels[:, self.source], converted[:, self.delayed])
        observed = (self.window == _NOT_DELAYED) | (self.window == window[:, None])
        return self._masked(known, label_mask[:, self.source] * observed)

    def judge_by_all(
        self, labels: np.ndarray, label_mask: np.ndarray, delays: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Computes the labels of evaluation rows for all windows, from conversion delays.

        Args:
          labels: [B, O] labels of the impressions; those of delayed objectives are not read.
          label_mask: [B, O] of the impressions.
          delays: [B, delayed objectives] int64 seconds from impression to first conversion.

        Returns:
          (labels, label_mask), both [B, O'] float32.
        """
        within = delays[:, self.delayed] <= np.array(self.seconds)[self.window]
        known = np.where(self.window == _NOT_DELAYED, labels[:, self.source], within)
        return self._masked(known, label_mask[:, self.source])

    def judge_by_longest(self, labels: np.ndarray, label_mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Computes the labels of evaluation rows without known delays: the final label is the longest window's."""
        observed = (self.window == _NOT_DELAYED) | (self.window == len(self.seconds) - 1)
        return self._masked(labels[:, self.source], label_mask[:, self.source] * observed)

    @staticmethod
    def _masked(labels: np.ndarray, label_mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mask = label_mask.astype(np.float32)
        return np.where(mask > 0, labels, 0).astype(np.float32), mask


def name_head(objective: str, window: str) -> str:
    """Returns the name of the label column of one objective and one window."""
    return f"{objective}@{window}"


def build_window_labels(
    schema: Schema, objectives: Sequence[str], names: Sequence[str], seconds: Sequence[int]
) -> WindowLabels:
    """Replaces each delayed objective by K label columns.

    Args:
      schema: schema of the impressions.
      objectives: names of the delayed objectives.
      names: names of the K windows.
      seconds: lengths of the K windows.

    Raises:
      UserError: the schema lacks an objective, or already has a column with the name of a new one.
    """
    known = [label.name for label in schema.labels]
    for objective in objectives:
        if objective not in known:
            raise UserError(f"objective = {objective!r}: not a label of the schema, which has {', '.join(known)}")
    if not objectives or len(set(objectives)) < len(objectives):
        raise UserError(f"objectives = {','.join(objectives) or '()'}: name each delayed objective once")
    labels: list[LabelColumn] = []
    places: list[tuple[int, int, int]] = []
    for source, label in enumerate(schema.labels):
        if label.name not in objectives:
            labels.append(label)
            places.append((source, _NOT_DELAYED, _NOT_DELAYED))
            continue
        for window, name in enumerate(names):
            head = name_head(label.name, name)
            if head in known:
                raise UserError(f"objective = {label.name!r}: the schema has a label {head!r} already")
            labels.append(dataclasses.replace(label, name=head, column=label.source_column))
            places.append((source, list(objectives).index(label.name), window))
    source_of, delayed, window_of = np.array(places).T
    return WindowLabels(tuple(labels), source_of, delayed, window_of, tuple(seconds))
