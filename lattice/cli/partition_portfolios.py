"""Group portfolios, (domain, objective) pairs, into models that serve them together.

    wukong-jax partition_portfolios --data=FOLDER --output=groups.json [--workdir=RUN] [--user=COLUMN] [...]
    wukong-jax partition_portfolios --data=FOLDER --groups=groups.json --rows=DIR

The first form prints a table of the portfolios and groups them by overlap of users and items, delay, density and, if a
trained shared model is given, conflict of gradients, under a compute budget, for all groups or shared by weight, and
must-not-meet rules. Where gradients inside a group oppose each other, thresholds in the rules split it, or name weights
to untie. It writes `groups.json` and a picture. The second form writes the rows of each group to DIR/group_0, ..., to
train a model on (`--config.data.factory=blocks --config.data.path=DIR/group_0`).

Rules are a JSON file, each key optional: {"must_not_meet": [["one", "other"], ...], "weights": {"shop/order": 5},
"budget_by_weight": 2, "conflict": {"split_below": -0.4, "untie_below": -0.1, "untie": ["heads"]}}. Names are domains,
portfolios or columns; budgets are model runs per row of traffic; thresholds are mean cosines of gradients.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from wukong_jax.cli.settings import AllowFactories
from wukong_jax.errors import UserError
from wukong_jax.ranges import AtLeast

_BATCHES = 16
_NEEDED = {"users": "user", "items": "item", "delay": "conversions", "conflict": "workdir"}  # affinity -> its source


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's flags."""

    data: Annotated[str, "folder of prepared data, whose training rows are used"]
    output: Annotated[str | None, "groups.json to write; the picture is written beside it"] = None
    workdir: Annotated[
        str | None,
        "run trained on this data, to measure gradients: one model of all portfolios with no untied weights, which "
        "would resolve conflicts and so hide them",
    ] = None
    allow_factories: AllowFactories = ()
    batches: Annotated[
        int | None, f"batches of training rows to measure gradients on (default: {_BATCHES})", AtLeast(1)
    ] = None
    user: Annotated[str, "id column of users"] = ""
    item: Annotated[str, "id column of items"] = ""
    conversions: Annotated[str | None, "conversion log of the training rows (.npz), for delays"] = None
    weights: Annotated[Mapping[str, float], "weights of portfolios, such as shop/order=5,shop/click=0.2"] = (
        dataclasses.field(default_factory=dict)
    )
    affinity: Annotated[Mapping[str, float], "weights of the parts of the affinity, such as conflict=4,items=0"] = (
        dataclasses.field(default_factory=dict)
    )
    budget: Annotated[float | None, "maximum model runs per row of traffic; 1 = one model per domain"] = None
    rules: Annotated[str | None, "JSON file of rules, see above"] = None
    groups: Annotated[str | None, "groups.json; write the rows of its groups instead of grouping"] = None
    rows: Annotated[str | None, "with --groups: folder to create, with one subfolder per group"] = None

    def __post_init__(self) -> None:
        """Rejects flags that would have no effect, and checks for missing ones."""
        given = {
            field.name for field in dataclasses.fields(self) if getattr(self, field.name) not in (None, "", {}, ())
        }
        idle = given & {"rows"}
        why = "without --groups"
        if self.groups:
            idle, why = given - {"data", "groups", "rows"}, "with --groups, which writes the rows of groups that exist"
        elif not idle and not self.workdir:
            idle, why = given & {"batches", "allow_factories"}, "without --workdir, whose gradients they are for"
        if idle:
            raise UserError(f"--{min(idle)}: is not read {why}; leave it out")
        for part, source in _NEEDED.items():
            if self.affinity.get(part) and not getattr(self, source):
                raise UserError(f"--affinity = {part}={self.affinity[part]:g}: is not read without --{source}; give it")
        if self.groups and not self.rows:
            raise UserError("--rows: none given; name the folder for the groups' rows")
        if not self.groups and not self.output:
            raise UserError("--output: none given; name the groups.json to write, or give --groups and --rows")


def run(settings: Settings) -> None:
    """Measures and groups portfolios, or writes the rows of given groups."""
    from lattice.filter.permutation_importance import list_features
    from lattice.portfolios.affinity import AffinityWeights, compute_affinity, compute_cosines, measure_gradients
    from lattice.portfolios.conflicts import Resolved, resolve_conflicts
    from lattice.portfolios.group_rules import GroupRules, load_rules
    from lattice.portfolios.groups import describe_groups, format_groups, load_groups, write_groups
    from lattice.portfolios.partitioner import check_rules, partition_portfolios
    from lattice.portfolios.portfolios import format_portfolios, measure_portfolios
    from lattice.portfolios.rows import write_group_rows
    from wukong_jax.config import DataConfig
    from wukong_jax.data.blocks.conversion_log import load_conversion_log
    from wukong_jax.data.blocks.row_blocks import open_row_blocks
    from wukong_jax.runs.drawn_batches import draw_batches
    from wukong_jax.runs.open_run import open_run
    from wukong_jax.runs.rows import open_run_data
    from wukong_jax.strict_mapping import build_dataclass

    if settings.groups:
        data = open_run_data(DataConfig("blocks", path=settings.data), Path(), print)
        for index, group in enumerate(load_groups(settings.groups)):
            folder = Path(settings.rows or "") / f"group_{index}"
            write_group_rows(data, group["portfolios"], group["dropped_columns"], folder)
            untied = f"; untie {', '.join(group['untied'])} (config.model.options.untied)" if group["untied"] else ""
            print(f"wrote {folder}: {', '.join(group['portfolios'])}{untied}")
        return
    weights = build_dataclass(AffinityWeights, settings.affinity, "--affinity")
    blocks = open_row_blocks(settings.data, "train")
    conversions = load_conversion_log(settings.conversions) if settings.conversions else None
    rules = load_rules(settings.rules) if settings.rules else GroupRules()
    budget = rules.choose_budget(settings.budget)
    rules.check_flags(bool(settings.weights), bool(settings.workdir))
    worth = settings.weights or rules.weights
    rows = measure_portfolios(blocks, settings.user, settings.item, conversions, worth)
    print(format_portfolios(rows.portfolios))
    check_rules(rules.pairs, rows.portfolios, list_features(blocks.schema))
    cosine = None
    if settings.workdir:
        opened = open_run(settings.workdir, allow_factories=settings.allow_factories)
        batches = draw_batches(opened, "train", settings.batches or _BATCHES)
        cosine = compute_cosines(measure_gradients(opened, rows.portfolios, batches))
    affinity = compute_affinity(rows, weights, cosine)
    grouping = partition_portfolios(rows.portfolios, affinity.total, rows.traffic, budget, rules.pairs)
    resolved = Resolved(grouping, (), {})
    if rules.conflict is not None and cosine is not None:
        resolved = resolve_conflicts(grouping, rows, cosine, rules.conflict, budget)
    described = describe_groups(rows, affinity, resolved, rules.pairs, weights, blocks.schema, budget)
    groups = resolved.grouping.groups
    counted = f"{len(groups)} groups" if len(groups) > 1 else "one group"
    output = Path(settings.output or "")
    picture = write_groups(described, output, f"{blocks.schema.name}: {counted} of portfolios")
    print(format_groups(described))
    print(f"wrote {output} and {picture}")
