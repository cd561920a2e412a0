"""Group the columns of a trained flat model into towers; write `towers.json` and a picture.

    wukong-jax partition_towers --workdir=runs/mine --towers=8 [--strategy=diverse] [--balance=bytes]

This is the tower partitioner of DMT (paper 3.3): it computes affinities of the embeddings over validation rows (or
training rows if there are none), embeds the columns in a few dimensions, and clusters them by balanced k-means. Columns
that share a table are in the same tower. The picture is written beside the file.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from wukong_jax.cli.settings import AllowFactories
from wukong_jax.errors import UserError
from wukong_jax.ranges import AtLeast


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's flags."""

    workdir: Annotated[str, "folder of the run"]
    towers: Annotated[
        int | None, "number of towers T (default: the hosts of the run's mesh, at least 2)", AtLeast(1)
    ] = None
    strategy: Annotated[Literal["coherent", "diverse"], "group similar columns, or dissimilar ones"] = "coherent"
    affinity: Annotated[
        Literal["mean_of_abs", "abs_of_mean"],
        "order of the mean over rows and the absolute value; abs_of_mean follows the paper's formulas literally",
    ] = "mean_of_abs"
    dimensions: Annotated[
        int | None, "dimensions in which columns are clustered (default: 8, or T - 1 if more; the paper: 2)", AtLeast(1)
    ] = None
    balance: Annotated[
        Literal["count", "bytes", "ids"], "quantity to balance between towers: columns, table bytes, or ids per row"
    ] = "count"
    tolerance: Annotated[
        float | None, "balance by bytes or ids: relative excess over the mean of a tower (default: 0.1)", AtLeast(0)
    ] = None
    batches: Annotated[int, "evaluation batches to read", AtLeast(1)] = 16
    seed: Annotated[int, "seed of row sampling, embedding of columns and k-means", AtLeast(0)] = 0
    output: Annotated[str | None, "file to write (default: towers.json in the run's folder)"] = None
    data: Annotated[str | None, "folder of row blocks, if they were moved after training"] = None
    allow_factories: AllowFactories = ()

    def __post_init__(self) -> None:
        """Rejects a flag that would have no effect."""
        if self.balance == "count" and self.tolerance is not None:
            raise UserError(
                f"--tolerance = {self.tolerance:g}: towers balanced by count are as even as possible; leave it out, or "
                "balance by bytes or ids"
            )


def run(settings: Settings) -> None:
    """Restores the run, partitions its columns, and prints and writes the towers."""
    from dmt.partition.partitioner import PartitionOptions
    from dmt.partition.run import PartitionSettings, format_partition, partition_run, write_partition
    from wukong_jax.runs.folder import RunFolder
    from wukong_jax.runs.open_run import open_run

    options = PartitionOptions(
        towers=settings.towers or max(RunFolder(settings.workdir).load_config(settings.allow_factories).mesh.hosts, 2),
        strategy=settings.strategy,
        dimensions=settings.dimensions,
        seed=settings.seed,
    )
    partition = PartitionSettings(
        options, settings.affinity, settings.balance, tolerance=settings.tolerance, batches=settings.batches
    )
    opened = open_run(settings.workdir, settings.data, settings.allow_factories)
    described = partition_run(opened, partition)
    output = Path(settings.output) if settings.output else Path(settings.workdir) / "towers.json"
    title = f"{opened.run.config.name}: {options.towers} towers balanced by {partition.balance}"
    picture = write_partition(described, output, title)
    print(format_partition(described))
    print(f"wrote {output} and {picture}")
