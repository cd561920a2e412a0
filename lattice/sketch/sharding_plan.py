"""Plans the sharding of a config's dense layers on a mesh, and compares it with one strategy for all layers."""

import dataclasses

from lattice.sketch.sharding_costs import (
    STRATEGIES,
    ClusterRates,
    DenseLayer,
    build_problem,
    choose_strategies,
    count_layers,
)
from lattice.sketch.sharding_programme import ShardingPlan, ShardingProblem
from wukong_jax.config import RunConfig
from wukong_jax.errors import UserError
from wukong_jax.factories import load_factory
from wukong_jax.schema import Schema
from wukong_jax.training.run import build_run

_MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class PlannedLayers:
    """The layers of a model, the strategy of each layer, and the costs."""

    layers: list[DenseLayer]
    strategies: tuple[str, ...]  # one per layer
    plan: ShardingPlan
    problem: ShardingProblem  # costs of each layer under each strategy


def plan_sharding(config: RunConfig, schema: Schema, cluster: ClusterRates, limit_bytes: int) -> PlannedLayers:
    """Finds the fastest strategies of the layers within a memory limit.

    Args:
      config: config of the run.
      schema: schema with all row counts.
      cluster: sizes and rates of the mesh.
      limit_bytes: memory per chip for dense weights.

    Raises:
      UserError: the batch is not divisible by the number of chips, or no plan fits.
    """
    devices, batch = cluster.hosts * cluster.chips, config.training.batch_size
    if batch % devices:
        raise UserError(f"config.training.batch_size = {batch}: {devices} chips do not divide it; choose a multiple")
    here = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, hosts=1, chips=1))
    factory = load_factory("config.model.factory", config.model.factory)
    layers = count_layers(factory, config.model.options, build_run(here, schema).shape)
    strategies, plan = choose_strategies(layers, cluster, batch // devices, limit_bytes)
    return PlannedLayers(layers, strategies, plan, build_problem(layers, cluster, batch // devices))


def format_plan(planned: PlannedLayers) -> str:
    """Formats the plan and its costs as lines of text."""
    lines = [f"{'layer':30}{'parameters':>14}{'MFLOP':>10}  strategy"]
    for layer, name in zip(planned.layers, planned.strategies, strict=True):
        mflop = layer.train_flops_per_example / 1e6
        lines.append(f"{layer.name:30}{layer.parameters:>14,}{mflop:>10.3f}  {name}")
    memory, seconds = planned.plan.memory_bytes / _MIB, planned.plan.seconds
    lines.append(f"planned: {memory:,.2f} MiB kept on a chip, {1e3 * seconds:.4g} ms a step at most")
    for place, name in enumerate(STRATEGIES):
        memory = planned.problem.memory_bytes[:, place].sum() / _MIB
        seconds = planned.problem.seconds[:, place].sum()
        lines.append(f"all {name}: {memory:,.2f} MiB, {1e3 * seconds:.4g} ms")
    return "\n".join(lines)
