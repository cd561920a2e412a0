"""Cost model of sharded dense layers: memory on a chip, and time in a train step, from counted parameters and FLOPs.

Strategies on a mesh of H hosts x C chips (FSDP, fully sharded data parallel: each chip keeps a part of every weight and
gathers the whole weights of a layer when they are needed, once in the forward and once in the backward pass):

    replicated    every chip keeps all weights; gradients are summed over the mesh
    fsdp_chips    C parts, one per chip of a host; the gradients of a part are summed over hosts
    fsdp_all      H * C parts

The paper gives no times; this model is ours. Compute runs at a constant rate. In a ring collective over n ranks, a rank
sends (n - 1) / n of the array for a gather or reduce-scatter, and twice that for a sum, at the rate of the link.
Collectives over the whole mesh use the fast links within hosts first, so that the slow links carry 1 / C of an array
per chip. Compute and communication do not overlap, so the sum is an upper bound.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import flax.linen as nn
import numpy as np

from lattice.sketch.sharding_programme import ShardingPlan, ShardingProblem, find_sharding
from wukong_jax.errors import UserError
from wukong_jax.models.cost import Cost, count_cost
from wukong_jax.models.shape import ModelShape
from wukong_jax.ranges import Above, AtLeast, check_ranges

REPLICATED, FSDP_CHIPS, FSDP_ALL = "replicated", "fsdp_chips", "fsdp_all"
STRATEGIES = (REPLICATED, FSDP_CHIPS, FSDP_ALL)


@dataclasses.dataclass(frozen=True)
class DenseLayer:
    """Size of a dense layer."""

    name: str
    parameters: int
    train_flops_per_example: float


@dataclasses.dataclass(frozen=True)
class ClusterRates:
    """A mesh and its rates, measured or from the data sheet."""

    hosts: Annotated[int, AtLeast(1)]  # H
    chips: Annotated[int, AtLeast(1)]  # C
    flops_per_second: Annotated[float, Above(0)]  # rate of a chip on such layers
    chip_bytes_per_second: Annotated[float, Above(0)]  # rate of a chip on the fast link
    # rate of a chip on the slow link while all chips of its host send
    host_bytes_per_second: Annotated[float, Above(0)]
    chip_start_seconds: Annotated[float, AtLeast(0)] = 0.0  # latency of a collective on the fast link
    host_start_seconds: Annotated[float, AtLeast(0)] = 0.0  # latency of a collective on the slow link

    def __post_init__(self) -> None:
        """Refuses sizes and rates that are none."""
        check_ranges(self)


@dataclasses.dataclass(frozen=True)
class BytesPerWeight:
    """Bytes per weight; the defaults are for float32 with Adam."""

    weight: int = 4  # kept
    gradient: int = 4  # kept until the update, and sent
    optimizer: int = 8  # two moments
    gathered: int = 4  # sent when a layer's weights are gathered; 2 for matrix products in bfloat16

    @property
    def kept(self) -> int:
        """Bytes kept throughout a step."""
        return self.weight + self.gradient + self.optimizer


class _Collectives(NamedTuple):
    """Bytes that a chip sends for a layer in one step on each link, and the number of collectives."""

    chip_bytes: float
    host_bytes: float
    chip_starts: int
    host_starts: int


def count_layers(
    build: Callable[[Mapping[str, Any], ModelShape], nn.Module], options: Mapping[str, Any], shape: ModelShape
) -> list[DenseLayer]:
    """Counts each layer of a stack by the parameters and FLOPs that it adds to the whole model.

    The first layer includes everything outside the stack (the dense columns' MLP, the head), so that the sum over
    layers is that of the whole model.

    Args:
      build: a model factory with an option `layers`, such as `wukong_jax.models.wukong:build`.
      options: options of the model, including `layers`.
      shape: sizes of the model.

    Raises:
      UserError: there is no option `layers`.
    """
    if "layers" not in options:
        raise UserError("layers: not among the model's options; only models with this option can be counted by layer")
    counted: list[DenseLayer] = []
    before = Cost(0, 0.0, 0.0, 0.0)
    for layers in range(1, int(options["layers"]) + 1):
        cost = count_cost(build({**options, "layers": layers}, shape), shape)
        counted.append(
            DenseLayer(
                f"layer {layers}" if layers > 1 else "layer 1, with inputs and head",
                cost.dense_parameters - before.dense_parameters,
                cost.train_flops_per_example - before.train_flops_per_example,
            )
        )
        before = cost
    return counted


def compute_memory_bytes(layer: DenseLayer, strategy: str, cluster: ClusterRates, size: BytesPerWeight) -> int:
    """Returns the bytes of a layer kept on one chip throughout a step: weights, gradients and optimizer state."""
    parts = {REPLICATED: 1, FSDP_CHIPS: cluster.chips, FSDP_ALL: cluster.hosts * cluster.chips}[strategy]
    return -(-layer.parameters // parts) * size.kept


def compute_seconds(
    layer: DenseLayer, strategy: str, cluster: ClusterRates, size: BytesPerWeight, rows_per_chip: int
) -> float:
    """Returns a layer's time in a train step, without the latency of collectives (see `compute_start_seconds`).

    Args:
      layer: the counted layer.
      strategy: one of `STRATEGIES`.
      cluster: the mesh and its rates.
      size: bytes per weight.
      rows_per_chip: B / (H * C).

    Returns:
      Seconds.
    """
    sent = _count_collectives(layer, strategy, cluster, size)
    compute = layer.train_flops_per_example * rows_per_chip / cluster.flops_per_second
    return compute + sent.chip_bytes / cluster.chip_bytes_per_second + sent.host_bytes / cluster.host_bytes_per_second


def compute_start_seconds(strategy: str, cluster: ClusterRates) -> float:
    """Returns the latency of a strategy's collectives.

    Compilers combine the collectives of consecutive layers with the same strategy, so only the first layer and the
    first one after each change pay it. It is the cost of a change in the dynamic program.
    """
    sent = _count_collectives(DenseLayer("", 0, 0.0), strategy, cluster, BytesPerWeight())
    return sent.chip_starts * cluster.chip_start_seconds + sent.host_starts * cluster.host_start_seconds


def build_problem(
    layers: Sequence[DenseLayer],
    cluster: ClusterRates,
    rows_per_chip: int,
    size: BytesPerWeight = BytesPerWeight(),
    strategies: Sequence[str] = STRATEGIES,
) -> ShardingProblem:
    """Builds the input of the dynamic program; the first layer's time includes the latency of its collectives."""
    starts = np.array([compute_start_seconds(s, cluster) for s in strategies])
    seconds = np.array(
        [[compute_seconds(layer, s, cluster, size, rows_per_chip) for s in strategies] for layer in layers]
    )
    seconds[0] += starts
    memory = np.array(
        [[compute_memory_bytes(layer, s, cluster, size) for s in strategies] for layer in layers], np.int64
    )
    change = np.where(np.eye(len(strategies), dtype=bool), 0.0, starts[None, :])
    return ShardingProblem(seconds, memory, change)


def choose_strategies(
    layers: Sequence[DenseLayer],
    cluster: ClusterRates,
    rows_per_chip: int,
    limit_bytes: int,
    size: BytesPerWeight = BytesPerWeight(),
) -> tuple[tuple[str, ...], ShardingPlan]:
    """Chooses the fastest strategies for the layers under a limit on a chip's memory for dense layers.

    While a sharded layer computes, its gathered weights and whole gradient need memory in addition to what is kept. The
    limit is reduced by this amount for the largest layer, unless nothing is sharded.

    Args:
      layers: layers from `count_layers`.
      cluster: the mesh and its rates.
      rows_per_chip: B / (H * C).
      limit_bytes: memory of a chip, without tables and activations.
      size: bytes per weight.

    Returns:
      (one of `STRATEGIES` per layer, the plan).

    Raises:
      UserError: no plan fits.
    """
    alone = build_problem(layers, cluster, rows_per_chip, size, (REPLICATED,))
    whole = find_sharding(alone, limit_bytes) if alone.memory_bytes.sum() <= limit_bytes else None
    aside = max(layer.parameters for layer in layers) * (size.gathered + size.gradient)
    try:
        plan = find_sharding(build_problem(layers, cluster, rows_per_chip, size), limit_bytes - aside)
    except UserError as error:
        if whole is None:
            raise UserError(
                f"{error} (of {limit_bytes:,} bytes, {aside:,} are for the largest layer as gathered)"
            ) from None
        return (REPLICATED,) * len(layers), whole
    if whole is not None and whole.seconds <= plan.seconds:
        plan = whole
    return tuple(STRATEGIES[s] for s in plan.strategies), plan


def _count_collectives(layer: DenseLayer, strategy: str, cluster: ClusterRates, size: BytesPerWeight) -> _Collectives:
    over_chips = (cluster.chips - 1) / cluster.chips  # share of an array that each rank of a ring sends
    over_hosts = (cluster.hosts - 1) / cluster.hosts
    weights, gradients = layer.parameters * size.gathered, layer.parameters * size.gradient
    slow = 1 / cluster.chips  # share of an array that a chip sends over the slow link
    if strategy == REPLICATED:  # reduce-scatter within hosts, sum over hosts, gather within hosts
        chip_bytes, host_bytes, chip, host = 2 * over_chips * gradients, 2 * over_hosts * gradients * slow, 2, 1
    elif strategy == FSDP_CHIPS:  # two gathers and a reduce-scatter within hosts, sum over hosts
        chip_bytes = over_chips * (2 * weights + gradients)
        host_bytes, chip, host = 2 * over_hosts * gradients * slow, 3, 1
    else:  # two gathers and a reduce-scatter, each over both links
        chip_bytes = over_chips * (2 * weights + gradients)
        host_bytes, chip, host = over_hosts * (2 * weights + gradients) * slow, 3, 3
    return _Collectives(chip_bytes, host_bytes, chip if cluster.chips > 1 else 0, host if cluster.hosts > 1 else 0)
