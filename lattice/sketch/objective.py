"""Objective of Lattice Sketch, AUC / FLOPs^0.003, and the budgets of a model.

The objective is the paper's, as reported in a note on it. Its exponent is the price of compute: twice the FLOPs must
raise AUC by a factor of 2^0.003, or 0.21 %, and a model with a seventeenth of the FLOPs may lose 0.85 % of AUC. The
unit of FLOPs scales all objectives equally and does not affect the ranking; we use training FLOPs per example, as in
`summary.json`.
"""

import dataclasses
from typing import Annotated

import numpy as np

from wukong_jax.errors import UserError
from wukong_jax.ranges import Above

EXPONENT = 0.003


def compute_objective(auc: float, flops: float, exponent: float = EXPONENT) -> float:
    """Returns AUC / FLOPs^exponent.

    Args:
      auc: validation AUC, between 0 and 1.
      flops: training FLOPs per example.
      exponent: price of FLOPs; 0: FLOPs are free.

    Raises:
      UserError: the model has no FLOPs, so its objective would be infinite.
      ValueError: the AUC is out of range.
    """
    if not 0 <= auc <= 1:
        raise ValueError(f"auc = {auc}: between 0 and 1")
    if flops <= 0:
        raise UserError(
            f"train_flops_per_example = {flops:g}: AUC / FLOPs^{exponent:g} needs a model with matrix products; "
            "search another config.model.factory"
        )
    return auc / flops**exponent


def compute_auc_of_equal_objective(objective: float, flops: np.ndarray, exponent: float = EXPONENT) -> np.ndarray:
    """Returns the AUCs at which models with these FLOPs, [n], have this objective, to plot a contour line."""
    return objective * flops**exponent


@dataclasses.dataclass(frozen=True)
class Budget:
    """Limits on the cost of a model; None: no limit."""

    flops: Annotated[float | None, Above(0)] = None  # training FLOPs per example, without tables
    # time of a predict step over `SearchOptions.latency_rows` rows on this machine
    milliseconds: Annotated[float | None, Above(0)] = None

    def explain_excess(self, flops: float, milliseconds: float | None = None) -> str:
        """Returns a message about the limit that a model exceeds, with both numbers; empty if it exceeds none.

        Args:
          flops: training FLOPs per example.
          milliseconds: time of its predict step; None: not measured and not checked.
        """
        if self.flops is not None and flops > self.flops:
            return f"{flops:.4g} training FLOPs per example: the budget is {self.flops:.4g}"
        if self.milliseconds is not None and milliseconds is not None and milliseconds > self.milliseconds:
            return f"{milliseconds:.4g} ms per predict step: the budget is {self.milliseconds:.4g}"
        return ""
