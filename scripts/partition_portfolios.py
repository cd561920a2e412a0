"""Groups portfolios, (domain, objective) pairs, into the models that are to serve them: `groups.json` and a picture.

    python scripts/partition_portfolios.py --data=FOLDER --output=groups.json [--workdir=RUN] [--user=COLUMN] [...]
    python scripts/partition_portfolios.py --data=FOLDER --groups=groups.json --rows=DIR

The first prints the table of portfolios and groups them by overlap of users and items, delay, density, and, where a
trained shared model is given, conflict of gradients; under a compute budget and must-not-meet rules. The second writes
each group's rows, to train a model on: DIR/group_0, ... (`--config.data.format=blocks --config.data.path=DIR/group_0`).
"""

import argparse
import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from wukong_jax.cli.command_line import run_script

if TYPE_CHECKING:
    from wukong_jax.data.blocks.batch import Batch
    from wukong_jax.runs.open_run import OpenRun


def main() -> None:
    """Parses, measures, groups, writes."""
    arguments = _build_parser().parse_args()
    from wukong_jax.errors import UserError

    refuse_idle_flags(arguments)
    if arguments.groups:
        write_rows(arguments)
    elif not arguments.output:
        raise UserError("--output: none given; name the groups.json to write, or give --groups and --rows")
    else:
        partition(arguments)


def partition(arguments: argparse.Namespace) -> None:
    """The first form."""
    from lattice.filter.permutation_importance import list_features
    from lattice.portfolios.affinity import AffinityWeights, compute_affinity, compute_cosines, measure_gradients
    from lattice.portfolios.groups import describe_groups, format_groups, load_rules, write_groups
    from lattice.portfolios.partitioner import check_rules, partition_portfolios
    from lattice.portfolios.portfolios import format_portfolios, measure_portfolios
    from wukong_jax.data.blocks.conversion_log import load_conversion_log
    from wukong_jax.data.blocks.row_blocks import open_row_blocks
    from wukong_jax.runs.open_run import open_run
    from wukong_jax.strict_mapping import build_dataclass

    blocks = open_row_blocks(arguments.data, "train")
    conversions = load_conversion_log(arguments.conversions) if arguments.conversions else None
    worth = parse_numbers("--weights", arguments.weights)
    rows = measure_portfolios(blocks, arguments.user, arguments.item, conversions, worth)
    print(format_portfolios(rows.portfolios))
    schema = blocks.schema
    rules = load_rules(arguments.rules) if arguments.rules else ()
    check_rules(rules, rows.portfolios, list_features(schema))
    cosine = None
    if arguments.workdir:
        opened = open_run(arguments.workdir)
        batches = draw_batches(opened, parse_batches(arguments.batches))
        cosine = compute_cosines(measure_gradients(opened, rows.portfolios, batches))
    weights = build_dataclass(AffinityWeights, parse_numbers("--affinity", arguments.affinity), "--affinity")
    affinity = compute_affinity(rows, weights, cosine)
    grouping = partition_portfolios(rows.portfolios, affinity.total, rows.traffic, arguments.budget, rules)
    described = describe_groups(rows, affinity, grouping, rules, weights, schema, arguments.budget)
    counted = f"{len(grouping.groups)} groups" if len(grouping.groups) > 1 else "one group"
    picture = write_groups(described, Path(arguments.output), f"{schema.name}: {counted} of portfolios")
    print(format_groups(described))
    print(f"wrote {arguments.output} and {picture}")


def draw_batches(opened: "OpenRun", batches: int) -> "Iterator[Batch]":
    """Batches of a run's training rows, of the size that it evaluates by, drawn at random: files may be sorted."""
    import itertools

    from wukong_jax.data.blocks.loader import Position, iterate_batches

    size, start = opened.run.config.training.evaluation_batch_size, Position(epoch=0, seed=0, rows_consumed=0)
    source = opened.data.source("train")
    drawn = iterate_batches(source, opened.run.schema, size, position=start, shuffle=True, epochs=1)
    with contextlib.closing(drawn):
        yield from (batch for batch, _ in itertools.islice(drawn, batches))


def write_rows(arguments: argparse.Namespace) -> None:
    """The second form."""
    from lattice.filter.reduced_rows import write_rewritten_rows
    from lattice.portfolios.groups import load_groups, split_name
    from lattice.portfolios.rows import build_group_schema, select_group_rows
    from wukong_jax.config import DataConfig
    from wukong_jax.errors import UserError
    from wukong_jax.runs.rows import open_run_data

    if not arguments.rows:
        raise UserError("--rows: none given; name the folder for the groups' rows")
    data = open_run_data(DataConfig("blocks", path=arguments.data), Path(), print)
    for index, group in enumerate(load_groups(arguments.groups)):
        portfolios = [split_name(name) for name in group["portfolios"]]
        made = build_group_schema(data.schema, portfolios, group["dropped_columns"])
        output = Path(arguments.rows) / f"group_{index}"
        write_rewritten_rows(
            data, made.schema, functools.partial(select_group_rows, whole=data.schema, group=made), output
        )
        print(f"wrote {output}: {', '.join(group['portfolios'])}")


def refuse_idle_flags(arguments: argparse.Namespace) -> None:
    """Refuses flags that what is asked for would not read."""
    from wukong_jax.errors import UserError

    given = {name for name, value in vars(arguments).items() if value not in (None, "")}
    if arguments.groups:
        idle, why = given - {"data", "groups", "rows"}, "with --groups, which writes the rows of groups that exist"
    else:
        idle, why = given & {"rows"}, "without --groups"
        if not idle and not arguments.workdir:
            idle, why = given & {"batches"}, "without --workdir, whose gradients they are for"
    if idle:
        raise UserError(f"--{min(idle)}: is not read {why}; leave it out")


def parse_batches(text: str | None) -> int:
    """A whole number of at least 1; 16 where none was given."""
    from wukong_jax.errors import UserError

    if text is None:
        return 16
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--batches = {text}: expected a whole number of at least 1")
    return int(text)


def parse_numbers(flag: str, text: str) -> dict[str, float]:
    """The numbers of "name=1.5,other=2"."""
    from wukong_jax.errors import UserError

    numbers = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.rpartition("=")
        try:
            numbers[name] = float(value)
        except ValueError:
            name = ""
        if not name:
            raise UserError(f"{flag}: {part!r} is no name=number")
    return numbers


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a prepared data folder; its training rows are counted")
    parser.add_argument("--output", help="groups.json to write; the picture goes beside it")
    parser.add_argument(
        "--workdir",
        help="a trained run on this data: measures gradients; all portfolios in one model, nothing untied, as that "
        "would resolve a conflict and hide it",
    )
    parser.add_argument("--batches", help="of the run's training rows, to measure gradients on (default: 16)")
    parser.add_argument("--user", default="", help="id column of users")
    parser.add_argument("--item", default="", help="id column of items")
    parser.add_argument("--conversions", help="conversion log of the training rows (.npz), for delays")
    parser.add_argument("--weights", default="", help='worth of portfolios, such as "shop/order=5,shop/click=0.2"')
    parser.add_argument("--affinity", default="", help='weights of the affinity, such as "conflict=4,items=0"')
    parser.add_argument("--budget", type=float, help="most model runs per row of traffic; 1 = one model a domain")
    parser.add_argument(
        "--rules", help='JSON: {"must_not_meet": [["one", "other"], ...]}, domains, portfolios, columns'
    )
    parser.add_argument("--groups", help="a groups.json: write the rows of its groups instead")
    parser.add_argument("--rows", help="with --groups: folder to make, one subfolder a group")
    return parser


if __name__ == "__main__":
    run_script(main)
