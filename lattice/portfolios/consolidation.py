"""Comparison of one consolidated network with a separate model per portfolio: losses paired by seed, and total costs.

The paper's capacity table (section 4) claims that fewer models serve the same portfolios at lower cost. Whether they
serve them equally well is checked for each portfolio, by normalized entropy (NE) on the same test rows.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# A portfolio is worse if its NE exceeds that of its separate model by more than this share of it, and by more than two
# standard errors.
TOLERATED = 1e-3


@dataclasses.dataclass(frozen=True)
class PortfolioComparison:
    """One portfolio, served by a separate model and by the consolidated network."""

    portfolio: str
    alone: float  # separate model: mean NE over seeds
    together: float  # consolidated network: mean NE over seeds
    difference: float  # mean over seeds of together - alone
    standard_error: float  # of the difference, from its standard deviation over seeds; NaN with one seed
    worse: bool  # whether the difference exceeds the tolerance or is NaN; not if no model has an NE on these labels


def compare_portfolios(
    alone: Mapping[str, Sequence[float | None]], together: Mapping[str, Sequence[float | None]]
) -> list[PortfolioComparison]:
    """Compares each portfolio's NE in the consolidated network with that of its separate model.

    Args:
      alone: portfolio -> NE of its separate model, one per seed; None if undefined (labels of one class).
      together: portfolio -> NE in the consolidated network, for the same seeds in the same order.

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
        undefined = bool(np.isnan(own).all() and np.isnan(other).all())  # labels of one class, not a diverged model
        tolerated = max(TOLERATED * mean, 0.0 if math.isnan(error) else 2 * error)
        compared.append(
            PortfolioComparison(
                portfolio,
                mean,
                float(other.mean()),
                difference,
                error,
                worse=not (undefined or difference <= tolerated),
            )
        )
    return compared


@dataclasses.dataclass(frozen=True)
class Capacity:
    """Compute and memory needed for serving."""

    flops_per_impression: float  # forward FLOPs to score all objectives of a row, averaged over the traffic
    embedding_rows: int  # distinct ids in the training rows of a model's domains, summed over models

    def saving_from(self, other: "Capacity") -> tuple[float, float]:
        """Returns the shares of the other capacity's FLOPs and embedding rows that this one saves."""
        return (
            1 - self.flops_per_impression / other.flops_per_impression,
            1 - self.embedding_rows / other.embedding_rows,
        )


def add_capacities(models: Mapping[Any, Capacity], traffic: Mapping[Any, float]) -> Capacity:
    """Returns the total capacity of several models served together.

    Args:
      models: capacity of each model by any key, with the FLOPs for one row that the model scores.
      traffic: share of all rows that each model scores, by the same keys.
    """
    return Capacity(
        sum(traffic[name] * model.flops_per_impression for name, model in models.items()),
        sum(model.embedding_rows for model in models.values()),
    )
