"""Affinity of portfolios: shared ids, similar delays and densities of labels, and gradients without conflict.

    affinity(p, q) = w_users * Jaccard(users) + w_items * Jaccard(items) - w_delay * |log(delay_p / delay_q)|
                     - w_density * |log(density_p / density_q)| - w_conflict * max(0, -cos(gradient_p, gradient_q))

The criteria are those reported for the Lattice Partitioner (arXiv 2512.09200, section 3.1): overlap of ids, kind of
feedback, and gradients where domains conflict. The formula and its weights are our choice; no values are public.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from lattice.portfolios.portfolios import Portfolio, PortfolioRows
from wukong_jax.data.blocks.batch import Batch
from wukong_jax.errors import UserError
from wukong_jax.layers.batch_norm import STATISTICS
from wukong_jax.ranges import AtLeast, check_ranges
from wukong_jax.runs.evaluation import put_batch
from wukong_jax.runs.open_run import OpenRun
from wukong_jax.training.loss import sum_log_loss
from wukong_jax.training.step import run_network


@dataclasses.dataclass(frozen=True)
class AffinityWeights:
    """Weights of the terms. By default a factor of 10 in delay or density cancels a Jaccard overlap of 0.46."""

    users: Annotated[float, AtLeast(0)] = 1.0
    items: Annotated[float, AtLeast(0)] = 1.0
    delay: Annotated[float, AtLeast(0)] = 0.2  # per unit of the natural logarithm
    density: Annotated[float, AtLeast(0)] = 0.2
    conflict: Annotated[float, AtLeast(0)] = 2.0  # opposite gradients outweigh a full overlap of users and items

    def __post_init__(self) -> None:
        """Refuses negative weights."""
        check_ranges(self)


@dataclasses.dataclass(frozen=True)
class Affinity:
    """The affinity of all pairs and its terms, each [P, P] float64."""

    total: np.ndarray
    users: np.ndarray  # Jaccard overlap
    items: np.ndarray  # Jaccard overlap
    delay: np.ndarray  # |log ratio|
    density: np.ndarray  # |log ratio|
    cosine: np.ndarray  # of gradients; 0 if none were measured


def compute_affinity(rows: PortfolioRows, weights: AffinityWeights, cosine: np.ndarray | None = None) -> Affinity:
    """Computes the affinity of all pairs of portfolios.

    Args:
      rows: P portfolios.
      weights: weights of the terms.
      cosine: [P, P] cosines of gradients, see `compute_cosines`; None: not measured, no pair conflicts.

    Returns:
      The affinities, symmetric; the diagonal has no meaning.
    """
    users, items = compute_overlaps(rows.users), compute_overlaps(rows.items)
    delay = _log_ratios([p.delay_seconds for p in rows.portfolios])
    density = _log_ratios([p.density for p in rows.portfolios])
    cosine = np.zeros_like(users) if cosine is None else cosine
    total = (
        weights.users * users
        + weights.items * items
        - weights.delay * delay
        - weights.density * density
        - weights.conflict * np.maximum(0.0, -cosine)
    )
    return Affinity(total, users, items, delay, density, cosine)


def compute_overlaps(ids: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the Jaccard overlaps |A and B| / |A or B| of all pairs of id sets, [P, P]; 0 for two empty sets."""
    made = np.zeros((len(ids), len(ids)))
    for i, first in enumerate(ids):
        for j, second in enumerate(ids[: i + 1]):
            both = len(np.intersect1d(first, second, assume_unique=True))
            made[i, j] = made[j, i] = both / max(len(first) + len(second) - both, 1)
    return made


def compute_cosines(gradients: np.ndarray) -> np.ndarray:
    """Computes the cosines of all pairs of gradients, over the weights for which both are nonzero.

    A portfolio's separate head and untied weights get no gradient from other portfolios. Including them would hide a
    conflict in the shared weights.

    Args:
      gradients: [P, weights].

    Returns:
      [P, P] float64; 0 if a pair shares no weight.
    """
    reached = (gradients != 0).astype(np.float64)
    exact = gradients.astype(np.float64)
    sizes = np.sqrt((exact**2) @ reached.T)  # [p, q]: norm of p's gradient over the weights where q's is nonzero
    scale = sizes * sizes.T
    return np.divide(exact @ exact.T, scale, out=np.zeros_like(scale), where=scale > 0)


def measure_gradients(opened: OpenRun, portfolios: Sequence[Portfolio], batches: Iterable[Batch]) -> np.ndarray:
    """Computes the gradient of each portfolio's mean log loss in the dense weights of a trained shared model.

    Args:
      opened: the run, restored at the checkpoint to evaluate.
      portfolios: P portfolios, with the domain and objective names of the run's schema.
      batches: batches of the run's rows.

    Returns:
      [P, weights] float32.

    Raises:
      UserError: the run does not have a portfolio, or the batches contain no row of it.
    """
    run, state = opened.run, opened.state
    domains = list(run.schema.domain_values or ("all",))
    objectives = [label.name for label in run.schema.labels]
    for portfolio in portfolios:
        if portfolio.domain not in domains or portfolio.objective not in objectives:
            raise UserError(f"portfolio {portfolio.name}: the shared model does not have it; give a run that does")

    def compute_loss(params: Any, rows: Any, routed: Any, batch: Batch, domain: Any, objective: Any) -> Any:
        variables = {"params": params, STATISTICS: state.statistics}
        outputs, _ = run_network(run.network, run.exchange, variables, rows, routed, batch, train=False)
        mine = jax.nn.one_hot(objective, len(objectives)) * (batch.domain == domain)[:, None]
        return sum_log_loss(outputs.logits, batch._replace(label_mask=batch.label_mask * mine))

    @jax.jit
    def add(total: Any, params: Any, tables: Any, batch: Batch, domain: Any, objective: Any) -> Any:
        routed = run.exchange.route_ids(batch.ids)
        rows = run.exchange.gather(tables, routed)
        differentiate = jax.value_and_grad(compute_loss, has_aux=True)
        (_, weight), gradient = differentiate(params, rows, routed, batch, domain, objective)
        return jax.tree.map(jnp.add, total, (gradient, weight))

    totals = [(jax.tree.map(jnp.zeros_like, state.params), jnp.zeros(())) for _ in portfolios]
    for batch in batches:
        on_devices = put_batch(batch, run.mesh)
        for place, portfolio in enumerate(portfolios):
            where = domains.index(portfolio.domain), objectives.index(portfolio.objective)
            totals[place] = add(totals[place], state.params, state.tables, on_devices, *map(jnp.int32, where))
    for portfolio, (_, weight) in zip(portfolios, totals, strict=True):
        if not weight > 0:
            raise UserError(f"portfolio {portfolio.name}: the batches read have no row of it; raise --batches")
    return np.stack([_flatten(gradient, float(weight)) for gradient, weight in totals])


def _flatten(gradient: Any, weight: float) -> np.ndarray:
    return np.concatenate([np.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(gradient)]) / weight


def _log_ratios(values: Sequence[float]) -> np.ndarray:
    logarithms = np.log(np.array(values, np.float64))
    return np.abs(logarithms[:, None] - logarithms[None, :])
