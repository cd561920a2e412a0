"""What Lattice Sketch maximises, AUC / FLOPs^0.003, and the budgets that a model must keep.

The objective is the paper's (Lattice Sketch, by a note on the paper; the paper's own text says no more of it). Its
exponent is a price: twice the FLOPs must raise AUC by a factor of 2^0.003, that is 0.21 %, and a seventeenth of them
may cost 0.85 % of it. The unit of FLOPs scales all objectives alike, so it has no part in who wins; ours are training
FLOPs per example, as in `summary.json`.
"""

import dataclasses
from typing import Annotated

import numpy as np

from wukong_jax.errors import UserError
from wukong_jax.ranges import Above

EXPONENT = 0.003


def compute_objective(auc: float, flops: float, exponent: float = EXPONENT) -> float:
    """AUC / FLOPs^exponent.

    Args:
      auc: of validation rows, between 0 and 1.
      flops: training FLOPs per example.
      exponent: the price of FLOPs; 0: none.

    Raises:
      UserError: a model without FLOPs, whose objective would be infinite.
      ValueError: no such AUC.
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
    """The AUCs at which models of so many FLOPs, [n], have this objective: a line of equal worth in a picture."""
    return objective * flops**exponent


@dataclasses.dataclass(frozen=True)
class Budget:
    """What a found model may cost at most; None: no limit."""

    flops: Annotated[float | None, Above(0)] = None  # training FLOPs per example, tables excluded
    # of one predict step over `SearchOptions.latency_rows` rows, on this machine
    milliseconds: Annotated[float | None, Above(0)] = None

    def explain_excess(self, flops: float, milliseconds: float | None = None) -> str:
        """Says which limit a model breaks, with both numbers; empty where it keeps them.

        Args:
          flops: training FLOPs per example.
          milliseconds: of its predict step; None: not measured, and so not judged.
        """
        if self.flops is not None and flops > self.flops:
            return f"{flops:.4g} training FLOPs per example: the budget is {self.flops:.4g}"
        if self.milliseconds is not None and milliseconds is not None and milliseconds > self.milliseconds:
            return f"{milliseconds:.4g} ms per predict step: the budget is {self.milliseconds:.4g}"
        return ""
