"""Plan how to shard each dense layer on a mesh under a memory limit (Lattice Sketch).

    wukong-jax plan_sharding --config=public/criteo_terabyte --schema=criteo_terabyte --table_rows=1000000
        --hosts=4 --chips=8 --memory_gib=4 [--tflops=200 --chip_gbps=300 --host_gbps=25] [--config.key=value]

The plan is computed from a cost model (see lattice/sketch/sharding_costs.py), without training or compiling. It is
advice for the model's author; the train command does not read it. Rates are those a chip achieves: TFLOP/s, and GB/s
sent within its host and between hosts. Memory is for dense weights, their gradients and Adam's moments. No rows are
read; --table_rows gives the sizes of tables that would depend on the data. The exit code is 1 if no plan fits.
"""

import dataclasses
from typing import Annotated

from wukong_jax.cli.settings import AssumedRowsFlags
from wukong_jax.ranges import Above, AtLeast


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(AssumedRowsFlags):
    """The command's flags."""

    hosts: Annotated[int, "hosts of the mesh", AtLeast(1)]
    chips: Annotated[int, "chips per host", AtLeast(1)]
    memory_gib: Annotated[float, "memory per chip for dense weights, gradients and moments, GiB", Above(0)]
    tflops: Annotated[float, "TFLOP/s that a chip achieves", Above(0)] = 200.0
    chip_gbps: Annotated[float, "GB/s that a chip sends within its host", Above(0)] = 300.0
    host_gbps: Annotated[float, "GB/s that a chip sends between hosts", Above(0)] = 25.0

    def __post_init__(self) -> None:
        """Rejects changes of the config's mesh, which would have no effect."""
        self.refuse_changes("mesh.", "--hosts and --chips say the mesh; leave it out")


def run(settings: Settings) -> None:
    """Plans the sharding and prints it."""
    from lattice.sketch.sharding_costs import ClusterRates
    from lattice.sketch.sharding_plan import format_plan, plan_sharding
    from wukong_jax.cli.run_config import load_config_dict
    from wukong_jax.clusters.assumed_schema import assume_run

    config, schema = assume_run(load_config_dict(settings), settings.schema, settings.data, settings.table_rows)
    cluster = ClusterRates(
        settings.hosts, settings.chips, settings.tflops * 1e12, settings.chip_gbps * 1e9, settings.host_gbps * 1e9
    )
    print(format_plan(plan_sharding(config, schema, cluster, int(settings.memory_gib * (1 << 30)))))
