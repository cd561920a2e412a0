"""What sharding a dense layer costs: memory on a chip, and time in a train step, by arithmetic on a counted model.

Strategies, on a mesh of H hosts x C chips (FSDP: each chip keeps a part of every weight, and gathers a layer's whole
weights when their turn comes, once forward and once backward):

    replicated    every chip keeps everything; gradients are summed over the mesh
    fsdp_chips    kept in C parts, one a chip of a host; the parts' gradients are summed over the hosts
    fsdp_all      kept in H * C parts

Times are our own model, as the paper gives none: compute at a flat rate; of each ring collective over n ranks, what a
rank sends, (n - 1) / n of the array for a gather or a reduce-scatter and twice that for a sum, over the link's rate;
collectives over the whole mesh go through the hosts' fast links first, so that the slow ones carry 1 / C of an array
per chip. Compute and links do not overlap here: the sum is an upper bound.
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
    """A layer as it is counted."""

    name: str
    parameters: int
    train_flops_per_example: float


@dataclasses.dataclass(frozen=True)
class ClusterRates:
    """A mesh and its speeds, as measured or as printed by the maker."""

    hosts: Annotated[int, AtLeast(1)]  # H
    chips: Annotated[int, AtLeast(1)]  # C, of a host
    flops_per_second: Annotated[float, Above(0)]  # that a chip reaches on such layers
    chip_bytes_per_second: Annotated[float, Above(0)]  # that a chip sends on the fast link
    # that a chip sends on the slow link, all chips of its host sending too
    host_bytes_per_second: Annotated[float, Above(0)]
    chip_start_seconds: Annotated[float, AtLeast(0)] = 0.0  # before a collective on the fast link moves its first byte
    host_start_seconds: Annotated[float, AtLeast(0)] = 0.0  # the same on the slow link

    def __post_init__(self) -> None:
        """Refuses sizes and rates that are none."""
        check_ranges(self)


@dataclasses.dataclass(frozen=True)
class BytesPerWeight:
    """What stands behind one weight; the defaults are float32 with Adam."""

    weight: int = 4  # kept
    gradient: int = 4  # kept until the update, and sent
    optimizer: int = 8  # two moments
    gathered: int = 4  # sent when a layer's weights are gathered; 2 for bfloat16 products

    @property
    def kept(self) -> int:
        """Bytes that stay through a step."""
        return self.weight + self.gradient + self.optimizer


class _Collectives(NamedTuple):
    """Bytes that a chip sends for a layer in one step on each link, and how many collectives that takes."""

    chip_bytes: float
    host_bytes: float
    chip_starts: int
    host_starts: int


def count_layers(
    build: Callable[[Mapping[str, Any], ModelShape], nn.Module], options: Mapping[str, Any], shape: ModelShape
) -> list[DenseLayer]:
    """The layers of a stack, counted: the difference that each makes to the whole model's parameters and products.

    The first one holds what surrounds the stack as well (the dense columns' MLP, the head), so that the sum is the
    whole model's.

    Args:
      build: a model factory with an option `layers`, such as `wukong_jax.models.wukong:build`.
      options: its options, `layers` among them.
      shape: the model's sizes.

    Raises:
      UserError: no option `layers`.
    """
    if "layers" not in options:
        raise UserError("layers: not among the model's options; layers are counted for stacks whose options name it")
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
    """What one chip keeps of a layer through a step: weights, gradients and optimizer state, in bytes."""
    parts = {REPLICATED: 1, FSDP_CHIPS: cluster.chips, FSDP_ALL: cluster.hosts * cluster.chips}[strategy]
    return -(-layer.parameters // parts) * size.kept


def compute_seconds(
    layer: DenseLayer, strategy: str, cluster: ClusterRates, size: BytesPerWeight, rows_per_chip: int
) -> float:
    """A layer's time in a train step, its collectives' starts left out: see `compute_start_seconds`.

    Args:
      layer: counted.
      strategy: of `STRATEGIES`.
      cluster: the mesh.
      size: bytes of a weight.
      rows_per_chip: B / (H * C).

    Returns:
      Seconds.
    """
    sent = _count_collectives(layer, strategy, cluster, size)
    compute = layer.train_flops_per_example * rows_per_chip / cluster.flops_per_second
    return compute + sent.chip_bytes / cluster.chip_bytes_per_second + sent.host_bytes / cluster.host_bytes_per_second


def compute_start_seconds(strategy: str, cluster: ClusterRates) -> float:
    """Starts of a strategy's collectives.

    Neighbours under one strategy send theirs together, as compilers combine them, so only the first layer and the ones
    after a change pay: this is the programme's cost of a change.
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
    """The programme's inputs; the first layer's time holds its starts."""
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
    """The fastest strategy of each layer under a limit of dense memory on a chip.

    While a sharded layer computes, its gathered weights and whole gradient lie beside what is kept; the largest
    layer's are set aside from the limit, except where nothing is sharded.

    Args:
      layers: from `count_layers`.
      cluster: the mesh.
      rows_per_chip: B / (H * C).
      limit_bytes: of a chip's memory, without tables and activations.
      size: bytes of a weight.

    Returns:
      (names of `STRATEGIES`, one a layer; the plan).

    Raises:
      UserError: nothing fits.
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
    over_chips = (cluster.chips - 1) / cluster.chips  # of an array, that each rank of a ring sends
    over_hosts = (cluster.hosts - 1) / cluster.hosts
    weights, gradients = layer.parameters * size.gathered, layer.parameters * size.gradient
    slow = 1 / cluster.chips  # the share of an array that a chip takes to the slow link
    if strategy == REPLICATED:  # reduce-scatter in the host, sum over hosts, gather in the host
        chip_bytes, host_bytes, chip, host = 2 * over_chips * gradients, 2 * over_hosts * gradients * slow, 2, 1
    elif strategy == FSDP_CHIPS:  # two gathers and a reduce-scatter in the host, sum over hosts
        chip_bytes = over_chips * (2 * weights + gradients)
        host_bytes, chip, host = 2 * over_hosts * gradients * slow, 3, 1
    else:  # both ways over both links
        chip_bytes = over_chips * (2 * weights + gradients)
        host_bytes, chip, host = over_hosts * (2 * weights + gradients) * slow, 3, 3
    return _Collectives(chip_bytes, host_bytes, chip if cluster.chips > 1 else 0, host if cluster.hosts > 1 else 0)
