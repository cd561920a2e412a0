"""Partition of a finished run's columns into towers, written as `towers.json`, from the affinity of its embeddings."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from dmt.partition.balanced_kmeans import SizeLimits
from dmt.partition.partitioner import (
    AffinityOrder,
    AffinitySums,
    Partition,
    PartitionOptions,
    compute_affinity,
    compute_affinity_sums,
    compute_agreement,
    compute_contrast,
    partition_columns,
)
from dmt.partition.pictures import draw_partition
from dmt.towers import build_tower_layout, stride_towers
from wukong_jax.data.blocks.batch import Batch
from wukong_jax.embeddings.layout import EmbeddingLayout
from wukong_jax.embeddings.tokens import TokenAssembly
from wukong_jax.errors import UserError
from wukong_jax.files.whole_files import write_bytes_whole, write_text_whole
from wukong_jax.metrics.metric_names import replace_nan_by_none
from wukong_jax.ranges import AtLeast, check_ranges
from wukong_jax.runs.drawn_batches import draw_batches
from wukong_jax.runs.evaluation import put_batch
from wukong_jax.runs.open_run import OpenRun
from wukong_jax.training.run import Run
from wukong_jax.training.state import TrainState

Balance = Literal["count", "bytes", "ids"]
DEFAULT_TOLERANCE = 0.1
_BYTES = {"float32": 4, "bfloat16": 2}


@dataclasses.dataclass(frozen=True)
class RunAffinity:
    """Affinity sums and ids per row of a run's columns, in the schema's order."""

    columns: tuple[str, ...]  # F names
    sums: AffinitySums
    ids_per_row: np.ndarray  # [F] float64
    rows: int  # number of rows read
    split: str


@dataclasses.dataclass(frozen=True)
class PartitionSettings:
    """Settings of the command."""

    options: PartitionOptions
    affinity: AffinityOrder = "mean_of_abs"
    balance: Balance = "count"
    tolerance: float | None = None  # for balance by bytes or ids
    batches: Annotated[int, AtLeast(1)] = 16

    def __post_init__(self) -> None:
        """Refuses what is out of range or would have no effect."""
        check_ranges(self)
        if self.balance == "count" and self.tolerance is not None:
            raise UserError(
                f"tolerance = {self.tolerance:g}: towers balanced by count do not use it; leave it out, or "
                "balance by bytes or ids"
            )


def embed_tokens(run: Run, state: TrainState, batch: Batch) -> jax.Array:
    """Returns the embeddings that a flat model reads: [B, N, D] float32, zeros where there is no id."""
    routed = run.exchange.route_ids(batch.ids)
    values = run.exchange.collect(run.exchange.gather(state.tables, routed), routed)
    parameters = {"params": state.params.get("tokens", {})}
    embeddings, _ = TokenAssembly(run.layout).apply(parameters, values, batch.ids)
    return embeddings


def embed_columns(layout: EmbeddingLayout, tokens: jax.Array) -> jax.Array:
    """Returns one embedding per column: the sum of its tokens, which has the direction of their mean.

    Args:
      layout: an embedding layout without narrow columns.
      tokens: [B, N, D] float32.

    Returns:
      [B, F, D] float32, in the schema's order.
    """
    return jnp.stack([tokens[:, slice(*field.tokens)].sum(axis=1) for field in layout.fields], axis=1)


def read_batches(opened: OpenRun, batches: int, seed: int) -> tuple[str, Iterator[Batch]]:
    """Returns (split, batches): random rows without repetition from validation, or from train if it has none."""
    split = "validation" if "validation" in opened.data.splits else "train"
    return split, draw_batches(opened, split, batches, seed)


def measure_affinity(opened: OpenRun, batches: int, seed: int) -> RunAffinity:
    """Sums the cosines of a run's embeddings over random rows.

    Args:
      opened: the run, restored at the checkpoint to evaluate.
      batches: number of batches of the run's evaluation batch size; fewer if the split ends earlier.
      seed: random seed of the choice of rows.

    Returns:
      The sums, and the ids per row of each column.

    Raises:
      UserError: fewer than two columns, or narrow columns that share projected tokens.
    """
    run, layout = opened.run, opened.run.layout
    columns = tuple(field.column for field in layout.fields)
    build_tower_layout(layout.token_columns, [list(columns)])  # refuses narrow columns
    if len(columns) < 2:
        raise UserError(f"the run has {len(columns)} id columns; towers need at least 2")

    def measure(state: TrainState, batch: Batch) -> tuple[AffinitySums, jax.Array]:
        embeddings = embed_columns(layout, embed_tokens(run, state, batch))
        present = ((batch.ids >= 0) & (batch.weight > 0)[:, None]).astype(jnp.float32).sum(axis=0)
        ids = jnp.stack([present[slice(*field.slots)].sum() for field in layout.fields])
        return compute_affinity_sums(embeddings, batch.weight), ids

    split, drawn = read_batches(opened, batches, seed)
    measure_jitted = jax.jit(measure)
    parts, rows = [], 0
    for batch in drawn:
        part = measure_jitted(opened.state, put_batch(batch, run.mesh))
        parts.append(jax.tree.map(lambda array: np.asarray(array, np.float64), part))
        rows += int((batch.weight > 0).sum())
    sums, ids = jax.tree.map(lambda *arrays: sum(arrays), *parts)
    return RunAffinity(columns, sums, ids / max(rows, 1), rows, split)


def weigh_columns(layout: EmbeddingLayout, measured: RunAffinity, balance: Balance) -> np.ndarray | None:
    """Returns the column weights by which towers are balanced, [F] float64; None for "count".

    "bytes": size of the column's table without optimizer state; a shared table counts once, at its first column.
    "ids": mean ids per row of the column, over the rows read.
    """
    if balance == "count":
        return None
    if balance == "ids":
        return measured.ids_per_row
    weights, seen = [], set()
    for field in layout.fields:
        stack = layout.stacks[field.stack]
        weights.append(0 if field.table in seen else field.rows * stack.width * _BYTES[stack.dtype])
        seen.add(field.table)
    return np.array(weights, np.float64)


def find_shared_tables(layout: EmbeddingLayout) -> list[list[int]]:
    """Returns the columns of each shared table; a table lies on one host, so its columns must share a tower."""
    by_table: dict[str, list[int]] = {}
    for index, field in enumerate(layout.fields):
        by_table.setdefault(field.table, []).append(index)
    return [columns for columns in by_table.values() if len(columns) > 1]


def partition_run(opened: OpenRun, settings: PartitionSettings) -> dict[str, Any]:
    """Groups the columns of a run into towers.

    Columns are sorted by name, so that the schema's order does not affect the result.

    Args:
      opened: the run.
      settings: settings of the partition.

    Returns:
      The content of `towers.json`; see `describe_partition`.

    Raises:
      UserError: more towers than columns, bounds that cannot be met, or narrow columns that share projected tokens.
    """
    layout, options = opened.run.layout, settings.options
    stride_towers([field.column for field in layout.fields], options.towers)  # refuses more towers than columns
    measured = measure_affinity(opened, settings.batches, options.seed)
    affinity = compute_affinity(measured.sums, settings.affinity)
    weights = weigh_columns(layout, measured, settings.balance)
    order = np.argsort(measured.columns)
    place_of = np.argsort(order)
    limits = None
    if weights is not None:
        tolerance = DEFAULT_TOLERANCE if settings.tolerance is None else settings.tolerance
        limits = SizeLimits(settings.balance, tuple(weights[order].tolist()), tolerance)
    shared = [place_of[group].tolist() for group in find_shared_tables(layout)]
    found = partition_columns(affinity[np.ix_(order, order)], options, limits=limits, keep_together=shared)
    towers = sorted(tuple(sorted(order[list(tower)].tolist())) for tower in found.towers)
    found = dataclasses.replace(
        found, towers=tuple(towers), positions=found.positions[place_of], plane=found.plane[place_of]
    )
    return describe_partition(opened, settings, measured, affinity, weights, found)


def describe_partition(
    opened: OpenRun,
    settings: PartitionSettings,
    measured: RunAffinity,
    affinity: np.ndarray,
    weights: np.ndarray | None,
    found: Partition,
) -> dict[str, Any]:
    """Builds the content of `towers.json`: the towers, how they were found, and strided towers for comparison.

    Returns:
      JSON values: "towers" (lists of column names), "loads" (of each tower, in the balanced quantity), "columns",
      "affinity" (one row per column), "layout" (column to position), "plane" (column to position in two dimensions),
      "similarity" (mean affinity within and between towers), "strided" (strided towers and their similarity), "planted"
      (only for data generated with groups: these groups, and how well both kinds of towers agree with them), "stress",
      "inertia", "rows", "split", "step" and "settings".
    """
    columns = measured.columns
    index_of = {column: index for index, column in enumerate(columns)}
    strided = stride_towers(columns, settings.options.towers)
    strided_indices = [[index_of[column] for column in tower] for tower in strided]
    loads = np.ones(len(columns)) if weights is None else weights
    described: dict[str, Any] = {
        "towers": [[columns[index] for index in tower] for tower in found.towers],
        "loads": [float(loads[list(tower)].sum()) for tower in found.towers],
        "similarity": _name_contrast(affinity, found.towers),
        "strided": {"towers": strided, **_name_contrast(affinity, strided_indices)},
    }
    planted = opened.data.report.get("groups")
    if planted:
        groups = _label(columns, planted)
        described["planted"] = {
            "groups": planted,
            "agreement": compute_agreement(_label(columns, described["towers"]), groups),
            "strided_agreement": compute_agreement(_label(columns, strided), groups),
        }
    tolerance = DEFAULT_TOLERANCE if settings.tolerance is None else settings.tolerance
    described["settings"] = dataclasses.asdict(settings.options) | {
        "dimensions": settings.options.layout_dimensions,
        "affinity": settings.affinity,
        "balance": settings.balance,
        "tolerance": None if settings.balance == "count" else tolerance,
        "batches": settings.batches,
    }
    return described | {
        "split": measured.split,
        "rows": measured.rows,
        "step": int(opened.state.step),
        "stress": found.stress,
        "inertia": found.inertia,
        "layout": {column: found.positions[index].tolist() for index, column in enumerate(columns)},
        "plane": {column: found.plane[index].tolist() for index, column in enumerate(columns)},
        "columns": list(columns),
        "affinity": affinity.tolist(),
    }


def format_partition(described: dict[str, Any]) -> str:
    """The towers, and their mean affinity beside that of strided towers, in lines of text."""
    lines = [f"tower {index}: {', '.join(tower)}" for index, tower in enumerate(described["towers"])]
    lines.append("mean affinity    within  between")
    for name, contrast in (("these towers", described["similarity"]), ("strided towers", described["strided"])):
        lines.append(f"{name:15}  {contrast['within']:.4f}   {contrast['between']:.4f}")
    if "planted" in described:
        planted = described["planted"]
        lines.append(
            f"agreement with the planted groups (adjusted Rand index): {planted['agreement']:.3f}, of strided towers "
            f"{planted['strided_agreement']:.3f}"
        )
    return "\n".join(lines)


def write_partition(described: dict[str, Any], output: Path, title: str) -> Path:
    """Writes `towers.json` and its picture next to it, each atomically.

    Args:
      described: content of the file, from `partition_run`.
      output: path of the JSON file.
      title: title of the picture.

    Returns:
      The path of the picture.

    Raises:
      UserError: the files cannot be written.
    """
    picture = output.with_suffix(".png")
    if picture == output:
        raise UserError(f"--output = {output}: the picture gets that name; give a name that ends in .json")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_whole(picture, draw_partition(described, title))
        write_text_whole(output, json.dumps(replace_nan_by_none(described)) + "\n")
    except OSError as error:
        raise UserError(f"--output = {output}: {error.strerror}; give a file that can be written") from None
    return picture


def _name_contrast(affinity: np.ndarray, towers: Any) -> dict[str, float]:
    within, between = compute_contrast(affinity, towers)
    return {"within": within, "between": between}


def _label(columns: tuple[str, ...], groups: list[list[str]]) -> list[int]:
    return [next(index for index, group in enumerate(groups) if column in group) for column in columns]
