"""Plan how to shard each dense layer on a mesh, under a memory limit (Lattice Sketch).

    wukong-jax plan_sharding --config=public/criteo_terabyte --schema=criteo_terabyte --table_rows=1000000
        --hosts=4 --chips=8 --memory_gib=4 [--tflops=200 --chip_gbps=300 --host_gbps=25] [--config.key=value]

A plan for the model's author, by arithmetic (lattice/sketch/sharding_costs.py says which): nothing is trained or
compiled, and train does not read it. Rates are what a chip reaches: TFLOP/s, and GB/s that it sends inside its host and
between hosts. Memory is for dense weights, their gradients and Adam's moments. No rows are read: tables whose size only
data would tell get --table_rows. Exit code 1 where no plan fits.
"""

import dataclasses
from typing import Annotated

from wukong_jax.cli.settings import AssumedRowsFlags
from wukong_jax.ranges import Above, AtLeast


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(AssumedRowsFlags):
    """The command's flags."""

    hosts: Annotated[int, "hosts of the mesh", AtLeast(1)]
    chips: Annotated[int, "chips of a host", AtLeast(1)]
    memory_gib: Annotated[float, "memory of a chip for dense weights, GiB", Above(0)]
    tflops: Annotated[float, "TFLOP/s that a chip reaches", Above(0)] = 200.0
    chip_gbps: Annotated[float, "GB/s that a chip sends inside its host", Above(0)] = 300.0
    host_gbps: Annotated[float, "GB/s that a chip sends between hosts", Above(0)] = 25.0

    def __post_init__(self) -> None:
        """Refuses a mesh of the config, which would not be read."""
        self.refuse_changes("mesh.", "--hosts and --chips say the mesh; leave it out")


def run(settings: Settings) -> None:
    """Counts, plans, prints."""
    from lattice.sketch.sharding_costs import ClusterRates
    from lattice.sketch.sharding_plan import format_plan, plan_sharding
    from wukong_jax.cli.run_config import load_config_dict
    from wukong_jax.clusters.assumed_schema import assume_run

    config, schema = assume_run(load_config_dict(settings), settings.schema, settings.data, settings.table_rows)
    cluster = ClusterRates(
        settings.hosts, settings.chips, settings.tflops * 1e12, settings.chip_gbps * 1e9, settings.host_gbps * 1e9
    )
    print(format_plan(plan_sharding(config, schema, cluster, int(settings.memory_gib * (1 << 30)))))
