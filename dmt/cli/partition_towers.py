"""Group the columns of a trained flat model into towers: `towers.json` and a picture.

    wukong-jax partition_towers --workdir=runs/mine --towers=8 [--strategy=diverse] [--balance=bytes]

The tower partitioner of DMT (paper 3.3): affinities of the embeddings over rows of the validation split (of the
training rows, where there is none), a layout in few dimensions, balanced k-means. Columns that share a table share a
tower. The picture lies beside the file.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from wukong_jax.errors import UserError
from wukong_jax.ranges import AtLeast


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's flags."""

    workdir: Annotated[str, "the run's folder"]
    towers: Annotated[
        int | None, "number of towers T (default: the hosts of the run's mesh, at least 2)", AtLeast(1)
    ] = None
    strategy: Annotated[Literal["coherent", "diverse"], "put the similar together, or the different"] = "coherent"
    affinity: Annotated[
        Literal["mean_of_abs", "abs_of_mean"],
        "order of the mean over rows and the absolute value; the paper's formulas, read literally: abs_of_mean",
    ] = "mean_of_abs"
    dimensions: Annotated[
        int | None, "of the layout that is clustered (default: 8, or T - 1 if more; the paper: 2)", AtLeast(1)
    ] = None
    balance: Annotated[
        Literal["count", "bytes", "ids"], "what towers hold equally much of: columns, bytes of tables, or ids a row"
    ] = "count"
    tolerance: Annotated[
        float | None, "balance by bytes or ids: how far above the mean a tower may be (default: 0.1)", AtLeast(0)
    ] = None
    batches: Annotated[int, "evaluation batches to read", AtLeast(1)] = 16
    seed: Annotated[int, "of rows, layout and k-means", AtLeast(0)] = 0
    output: Annotated[str | None, "the file to write (default: towers.json in the run's folder)"] = None
    data: Annotated[str | None, "row blocks, if they have moved since training"] = None

    def __post_init__(self) -> None:
        """Refuses a flag that would not be read."""
        if self.balance == "count" and self.tolerance is not None:
            raise UserError(
                f"--tolerance = {self.tolerance:g}: towers balanced by count are as even as can be; leave it out, or "
                "balance by bytes or ids"
            )


def run(settings: Settings) -> None:
    """Restores, partitions, prints, writes."""
    from dmt.partition.partitioner import PartitionOptions
    from dmt.partition.run import PartitionSettings, format_partition, partition_run, write_partition
    from wukong_jax.runs.folder import RunFolder
    from wukong_jax.runs.open_run import open_run

    options = PartitionOptions(
        towers=settings.towers or max(RunFolder(settings.workdir).load_config().mesh.hosts, 2),
        strategy=settings.strategy,
        dimensions=settings.dimensions,
        seed=settings.seed,
    )
    partition = PartitionSettings(
        options, settings.affinity, settings.balance, tolerance=settings.tolerance, batches=settings.batches
    )
    opened = open_run(settings.workdir, settings.data)
    described = partition_run(opened, partition)
    output = Path(settings.output) if settings.output else Path(settings.workdir) / "towers.json"
    title = f"{opened.run.config.name}: {options.towers} towers balanced by {partition.balance}"
    picture = write_partition(described, output, title)
    print(format_partition(described))
    print(f"wrote {output} and {picture}")
