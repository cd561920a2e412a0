"""Groups the columns of a trained flat model into towers: `towers.json`, and a picture of it beside the file.

    python scripts/partition_towers.py --workdir=runs/mine --towers=8 [--strategy=diverse] [--balance=bytes]

The tower partitioner of DMT (paper 3.3): affinities of the embeddings over rows of the validation split (of the
training rows, where there is none), a layout in few dimensions, balanced k-means. Columns that share a table share a
tower.
"""

import argparse
from pathlib import Path

from wukong_jax.cli.command_line import run_script


def main() -> None:
    """Parses, restores, partitions, writes."""
    arguments = _build_parser().parse_args()
    from dmt.partition.partitioner import PartitionOptions
    from dmt.partition.run import PartitionSettings, partition_run, write_partition
    from wukong_jax.runs.folder import RunFolder
    from wukong_jax.runs.open_run import open_run

    hosts = RunFolder(arguments.workdir).load_config().mesh.hosts
    options = PartitionOptions(
        towers=arguments.towers if arguments.towers is not None else max(hosts, 2),
        strategy=arguments.strategy,
        dimensions=arguments.dimensions,
        seed=arguments.seed,
    )
    settings = PartitionSettings(
        options, arguments.affinity, arguments.balance, tolerance=arguments.tolerance, batches=arguments.batches
    )
    opened = open_run(arguments.workdir, arguments.data)
    described = partition_run(opened, settings)
    output = Path(arguments.output) if arguments.output else Path(arguments.workdir) / "towers.json"
    title = f"{opened.run.config.name}: {options.towers} towers balanced by {settings.balance}"
    picture = write_partition(described, output, title)
    for index, tower in enumerate(described["towers"]):
        print(f"tower {index}: {', '.join(tower)}")
    print("mean affinity    within  between")
    for name, contrast in (("these towers", described["similarity"]), ("strided towers", described["strided"])):
        print(f"{name:15}  {contrast['within']:.4f}   {contrast['between']:.4f}")
    if "planted" in described:
        planted = described["planted"]
        print(
            f"agreement with the planted groups (adjusted Rand index): {planted['agreement']:.3f}, of strided towers "
            f"{planted['strided_agreement']:.3f}"
        )
    print(f"wrote {output} and {picture}")


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, help="the run's folder")
    parser.add_argument("--towers", type=int, help="T; default: the hosts of the run's mesh, at least 2")
    parser.add_argument(
        "--strategy",
        choices=("coherent", "diverse"),
        default="coherent",
        help="put the similar together, or the different (default: coherent)",
    )
    parser.add_argument(
        "--affinity",
        choices=("mean_of_abs", "abs_of_mean"),
        default="mean_of_abs",
        help="order of the mean over rows and the absolute value (default: mean_of_abs; the paper's formulas, read "
        "literally: abs_of_mean)",
    )
    parser.add_argument(
        "--dimensions", type=int, help="of the layout that is clustered; default: 8, or T - 1 if more (the paper: 2)"
    )
    parser.add_argument(
        "--balance",
        choices=("count", "bytes", "ids"),
        default="count",
        help="what towers hold equally much of: columns, bytes of tables, or ids a row (default: count)",
    )
    parser.add_argument(
        "--tolerance", type=float, help="balance by bytes or ids: how far above the mean a tower may be (default: 0.1)"
    )
    parser.add_argument("--batches", type=int, default=16, help="evaluation batches to read (default: 16)")
    parser.add_argument("--seed", type=int, default=0, help="of rows, layout and k-means (default: 0)")
    parser.add_argument("--output", help="default: towers.json in the run's folder")
    parser.add_argument("--data", help="row blocks, if they have moved since training")
    return parser


if __name__ == "__main__":
    run_script(main)
