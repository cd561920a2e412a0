"""Picks how to shard each dense layer of a config on a mesh: the fastest plan under a limit of memory (Lattice Sketch).

    python scripts/plan_sharding.py --config=configs/criteo_terabyte.py --schema=criteo_terabyte --table_rows=1000000
        --hosts=4 --chips=8 --memory_gib=4 [--tflops=200 --chip_gbps=300 --host_gbps=25] [--config.key=value]

A plan for the model's author, by arithmetic (lattice/sharding_costs.py says which): nothing is trained or compiled, and
train.py does not read it. Rates are what a chip reaches: TFLOP/s, and GB/s that it sends inside its host and between
hosts. Memory is for dense weights, their gradients and Adam's moments. No rows are read: tables whose size only data
would tell get --table_rows. Exit code 1 where no plan fits.
"""

import argparse
import dataclasses

from assumed_run import build_parser, read_run

from wukong_jax.cli.command_line import run_script
from wukong_jax.errors import UserError

_MIB, _GIB = 1 << 20, 1 << 30


def main() -> None:
    """Parses, counts, plans, prints."""
    arguments, config_flags = _build_parser().parse_known_args()
    from lattice.sketch.sharding_costs import STRATEGIES, ClusterRates, build_problem, choose_strategies, count_layers
    from wukong_jax.factories import load_factory
    from wukong_jax.training.run import build_run

    config, schema = read_run(arguments, config_flags, __doc__)
    cluster = ClusterRates(
        arguments.hosts, arguments.chips, arguments.tflops * 1e12, arguments.chip_gbps * 1e9, arguments.host_gbps * 1e9
    )
    devices, batch = cluster.hosts * cluster.chips, config.training.batch_size
    if batch % devices:
        raise UserError(f"config.training.batch_size = {batch}: {devices} chips do not divide it; choose a multiple")
    here = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, hosts=1, chips=1))
    factory = load_factory("config.model.factory", config.model.factory)
    layers = count_layers(factory, config.model.options, build_run(here, schema).shape)
    names, plan = choose_strategies(layers, cluster, batch // devices, int(arguments.memory_gib * _GIB))
    print(f"{'layer':30}{'parameters':>14}{'MFLOP':>10}  strategy")
    for layer, name in zip(layers, names, strict=True):
        print(f"{layer.name:30}{layer.parameters:>14,}{layer.train_flops_per_example / 1e6:>10.3f}  {name}")
    print(f"planned: {plan.memory_bytes / _MIB:,.2f} MiB kept on a chip, {1e3 * plan.seconds:.4g} ms a step at most")
    problem = build_problem(layers, cluster, batch // devices)
    for place, name in enumerate(STRATEGIES):
        memory, seconds = problem.memory_bytes[:, place].sum() / _MIB, 1e3 * problem.seconds[:, place].sum()
        print(f"all {name}: {memory:,.2f} MiB, {seconds:.4g} ms")


def _build_parser() -> argparse.ArgumentParser:
    parser = build_parser(__doc__)
    parser.add_argument("--hosts", type=int, required=True, help="hosts of the mesh")
    parser.add_argument("--chips", type=int, required=True, help="chips of a host")
    parser.add_argument("--memory_gib", type=float, required=True, help="of a chip, for dense weights")
    parser.add_argument("--tflops", type=float, default=200.0, help="that a chip reaches (200)")
    parser.add_argument("--chip_gbps", type=float, default=300.0, help="GB/s a chip sends inside its host (300)")
    parser.add_argument("--host_gbps", type=float, default=25.0, help="GB/s a chip sends between hosts (25)")
    return parser


if __name__ == "__main__":
    run_script(main)
