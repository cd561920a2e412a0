"""What a consolidated network is worth against a model per portfolio: losses in pairs of seeds, costs in sum.

The claim of the paper's table of capacity (section 4) is that fewer models serve the same portfolios with less. Whether
they serve them as well is asked of each portfolio, by normalized entropy (NE) on the same test rows.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# A portfolio counts as worse beyond this part of its own model's NE, or two standard errors, whichever is more.
TOLERATED = 1e-3


@dataclasses.dataclass(frozen=True)
class PortfolioComparison:
    """One portfolio, served by a network of its own and by the consolidated one."""

    portfolio: str
    alone: float  # mean NE over seeds
    together: float
    difference: float  # mean over seeds of together - alone
    standard_error: float  # of the difference, from its spread over seeds; nan with one seed
    worse: bool  # the difference is above what is tolerated, or not a number


def compare_portfolios(
    alone: Mapping[str, Sequence[float | None]], together: Mapping[str, Sequence[float | None]]
) -> list[PortfolioComparison]:
    """Holds each portfolio's NE against that of its own model.

    Args:
      alone: portfolio -> NE of its own model, one per seed; None where it has none (labels of one class).
      together: the same of the consolidated network, the same seeds in the same order.

    Returns:
      A comparison for each portfolio, in the order of `alone`.

    Raises:
      ValueError: portfolios or numbers of seeds differ.
    """
    if set(alone) != set(together):
        raise ValueError(f"portfolios differ: {sorted(set(alone) ^ set(together))}")
    compared = []
    for portfolio in alone:
        own, other = (np.array(losses[portfolio], np.float64) for losses in (alone, together))  # None becomes nan
        if len(own) != len(other):
            raise ValueError(f"{portfolio}: {len(own)} and {len(other)} seeds")
        differences = other - own
        error = math.nan if len(own) < 2 else float(differences.std(ddof=1) / math.sqrt(len(own)))
        mean = float(own.mean())
        difference = float(differences.mean())
        tolerated = max(TOLERATED * mean, 0.0 if math.isnan(error) else 2 * error)
        compared.append(
            PortfolioComparison(portfolio, mean, float(other.mean()), difference, error, not difference <= tolerated)
        )
    return compared


@dataclasses.dataclass(frozen=True)
class Capacity:
    """What serving takes."""

    flops_per_impression: float  # forward FLOPs to score all objectives of a row, averaged over the rows of traffic
    embedding_rows: int  # different ids in the training rows of a model's domains, summed over models

    def saving_from(self, other: "Capacity") -> tuple[float, float]:
        """The parts of another one's FLOPs and embeddings that this one saves."""
        return (
            1 - self.flops_per_impression / other.flops_per_impression,
            1 - self.embedding_rows / other.embedding_rows,
        )


def add_capacities(models: Mapping[Any, Capacity], traffic: Mapping[Any, float]) -> Capacity:
    """The capacity of models side by side.

    Args:
      models: by whatever names them; a model's FLOPs are those of one row that it is asked to score.
      traffic: by the same, the share of all rows that it is asked to score.
    """
    return Capacity(
        sum(traffic[name] * model.flops_per_impression for name, model in models.items()),
        sum(model.embedding_rows for model in models.values()),
    )
