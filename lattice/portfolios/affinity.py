"""How well two portfolios go together: shared ids, like delays and densities, gradients that do not fight.

    affinity(p, q) = w_users * Jaccard(users) + w_items * Jaccard(items) - w_delay * |log(delay_p / delay_q)|
                     - w_density * |log(density_p / density_q)| - w_conflict * max(0, -cos(gradient_p, gradient_q))

The criteria are those reported of the Lattice Partitioner (arXiv 2512.09200, section 3.1): overlap of ids, kind of
feedback, gradients where domains conflict. The formula, and its weights, are our own; no values are public.
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
from wukong_jax.models.outputs import STATISTICS
from wukong_jax.ranges import AtLeast, check_ranges
from wukong_jax.runs.evaluation import put_batch
from wukong_jax.runs.open_run import OpenRun
from wukong_jax.training.loss import sum_log_loss
from wukong_jax.training.step import run_network


@dataclasses.dataclass(frozen=True)
class AffinityWeights:
    """Weights of the terms. A factor of 10 in delay or density costs as much as a Jaccard overlap of 0.46 gains."""

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
    """The affinity of all pairs and what it is made of, each [P, P] float64."""

    total: np.ndarray
    users: np.ndarray  # Jaccard overlaps
    items: np.ndarray
    delay: np.ndarray  # |log ratio|
    density: np.ndarray
    cosine: np.ndarray  # of gradients; 0 where none were measured


def compute_affinity(rows: PortfolioRows, weights: AffinityWeights, cosine: np.ndarray | None = None) -> Affinity:
    """Combines what is known of all pairs.

    Args:
      rows: P portfolios.
      weights: of the terms.
      cosine: [P, P] of gradients, see `compute_cosines`; None: not measured, no pair conflicts.

    Returns:
      The affinities, symmetric; the diagonal says nothing.
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
    """Jaccard overlaps |A and B| / |A or B| of all pairs of sets of ids: [P, P]; 0 for two empty sets."""
    made = np.zeros((len(ids), len(ids)))
    for i, first in enumerate(ids):
        for j, second in enumerate(ids[: i + 1]):
            both = len(np.intersect1d(first, second, assume_unique=True))
            made[i, j] = made[j, i] = both / max(len(first) + len(second) - both, 1)
    return made


def compute_cosines(gradients: np.ndarray) -> np.ndarray:
    """Cosines of all pairs of gradients, over the weights that both reach.

    Heads of their own and untied weights get no gradient from others; counted, they would hide a conflict in what is
    shared.

    Args:
      gradients: [P, weights].

    Returns:
      [P, P] float64; 0 where a pair shares no weight.
    """
    reached = (gradients != 0).astype(np.float64)
    exact = gradients.astype(np.float64)
    sizes = np.sqrt((exact**2) @ reached.T)  # [p, q]: of p's gradient over the weights that q reaches
    scale = sizes * sizes.T
    return np.divide(exact @ exact.T, scale, out=np.zeros_like(scale), where=scale > 0)


def measure_gradients(opened: OpenRun, portfolios: Sequence[Portfolio], batches: Iterable[Batch]) -> np.ndarray:
    """The gradient of each portfolio's mean log loss, over some rows, in the dense weights of a trained shared model.

    Args:
      opened: the run, at the state it is judged by.
      portfolios: P of them, named as its schema's domains and objectives.
      batches: of its rows.

    Returns:
      [P, weights] float32.

    Raises:
      UserError: the run has no such portfolio, or the batches no row of one.
    """
    run, state = opened.run, opened.state
    domains = list(run.schema.domain_values or ("all",))
    objectives = [label.name for label in run.schema.labels]
    for portfolio in portfolios:
        if portfolio.domain not in domains or portfolio.objective not in objectives:
            raise UserError(f"portfolio {portfolio.name}: not one of the shared model; give a run that has it")

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
            raise UserError(f"portfolio {portfolio.name}: no row of it in the batches read; raise --batches")
    return np.stack([_flatten(gradient, float(weight)) for gradient, weight in totals])


def _flatten(gradient: Any, weight: float) -> np.ndarray:
    return np.concatenate([np.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(gradient)]) / weight


def _log_ratios(values: Sequence[float]) -> np.ndarray:
    logarithms = np.log(np.array(values, np.float64))
    return np.abs(logarithms[:, None] - logarithms[None, :])
