"""Starts a run with the tables and weights of another one, whose vocabularies, columns and model may differ.

Rows are taken by the value that they stand for, tables by name, and dense weights by name and shape. Everything else
starts as in a run without a warm start. The learning-rate schedule starts at its beginning.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from wukong_jax.config import ExchangeConfig, MeshConfig, RunConfig
from wukong_jax.data.raw.same_values import match_rows
from wukong_jax.embeddings.carried_rows import NEW, CarriedArray
from wukong_jax.embeddings.fresh_rows import FreshTable
from wukong_jax.embeddings.layout import TableStack
from wukong_jax.errors import UserError
from wukong_jax.idle_options import accept_idle_options
from wukong_jax.runs.checkpoints import Checkpoints, Which
from wukong_jax.runs.folder import RunFolder
from wukong_jax.runs.placed_arrays import place_arrays
from wukong_jax.runs.rows import RunData, prepared_directory
from wukong_jax.schema import Schema, load_schema
from wukong_jax.training.run import Run, build_run
from wukong_jax.training.start_logits import START_LOGITS
from wukong_jax.training.state import TrainState, table_key


@dataclasses.dataclass(frozen=True)
class OldRun:
    """A run to start from; its checkpoint is not read yet."""

    folder: RunFolder
    config: RunConfig
    schema: Schema  # resolved
    vocabulary: Path  # folder of its vocabularies


@dataclasses.dataclass(frozen=True)
class _Checkpoint:
    """What an old run's checkpoint holds, on the host."""

    run: Run
    step: int
    which: Which
    dense: Mapping[str, Any]  # by the names of TrainState's fields
    tables: Mapping[str, Mapping[str, Any]]  # by table name and array name

    def stack_of(self, table: str) -> TableStack:
        """Returns the stack of a table."""
        return next(stack for stack in self.run.layout.stacks if table in stack.tables)


def open_old_run(config: RunConfig) -> OldRun | None:
    """Opens the run of `config.warm_start`; None if there is none. Reads no checkpoint.

    Raises:
      UserError: the folder holds no run, or its schema or vocabularies are gone.
    """
    if not config.warm_start:
        return None
    with _naming(config):
        folder = RunFolder(config.warm_start).fetch()
        parts = (config.model, config.loss, config.exchange, config.optimizer, config.data, config.data.join)
        packages = {part.factory.partition(":")[0].partition(".")[0] for part in parts if ":" in part.factory}
        old = folder.load_config(sorted(packages))
        directory = folder.newest_log_data() or prepared_directory(old.data, folder.data)
        if not (directory / "schema.json").is_file():
            raise UserError(f"{directory}: its prepared rows are gone, and with them its vocabularies; put them back")
        if not folder.is_saved:
            raise UserError("holds no checkpoint; train it first")
        return OldRun(folder, old, load_schema(directory / "schema.json"), directory / "vocabulary")


def warm_start(old: OldRun, run: Run, data: RunData, state: TrainState) -> tuple[TrainState, str]:
    """Replaces what a new run's state shares with an old run.

    Args:
      old: the old run.
      run: the new run.
      data: its rows, of which the vocabularies are read.
      state: its state before the first step; its tables are freed before others are made.

    Returns:
      The state, and lines of text: what was taken and what is new.

    Raises:
      UserError: the old run's checkpoint cannot be read, or its logits do not fit the config.
    """
    with _naming(run.config):
        saved = _read_checkpoint(old)
        takes_optimizer = run.config.warm_start_optimizer
        state = state.replace(tables={})
        tables, lines = _carry_tables(old, saved, run, data, takes_optimizer)
        placed = place_arrays(run.exchange.import_tables(tables), run.state_sharding.tables)
        state = state.replace(tables=placed)
        state, dense = _carry_dense(old, saved, run, state, takes_optimizer)
        title = f"warm start from {old.folder.name}, its {saved.which} checkpoint, step {saved.step}:"
        return state, "\n".join([title, *_align(lines), *dense])


def _read_checkpoint(old: OldRun) -> _Checkpoint:
    """Reads the best checkpoint, or the latest one if the run was never validated."""
    # As for scoring, the mesh and the placement of the old run do not matter.
    config = dataclasses.replace(old.config, mesh=MeshConfig(), exchange=ExchangeConfig())
    with accept_idle_options():
        run = build_run(config, old.schema, trains=False)
    checkpoints = Checkpoints(old.folder.checkpoints, run.exchange, read_only=True)
    try:
        which: Which = "best" if checkpoints.latest_step("best") is not None else "latest"
        dense, tables, _ = checkpoints.read(run.abstract_state(), which)
        return _Checkpoint(run, int(dense["step"]), which, dense, tables)
    finally:
        checkpoints.close()


def _carry_tables(
    old: OldRun, saved: _Checkpoint, run: Run, data: RunData, takes_optimizer: bool
) -> tuple[dict[str, dict[str, Any]], list[tuple[str, ...]]]:
    """Returns the logical tables of the new run, and a line of text for each."""
    key = table_key(run.config.seed)
    owners = {column.name: column for column in run.schema.id_columns}
    tables: dict[str, dict[str, Any]] = {}
    lines: list[tuple[str, ...]] = [("table", "rows", "taken", "new", "optimizer" if takes_optimizer else "")]
    for stack in run.layout.stacks:
        for table in stack.tables:
            fresh = FreshTable(stack, table, key)
            matched, why = match_rows(owners[table], data.vocabulary, old.schema, old.vocabulary)
            if matched is not None and (was := saved.stack_of(table)).width != stack.width:
                matched, why = None, f"rows had {was.width} numbers, now {stack.width}"
            if matched is None:
                old_rows, arrays, shift = np.full(fresh.rows, NEW), {}, 0
            else:
                old_rows, arrays = matched, dict(saved.tables[table])
                shift = -saved.step  # of the steps that rows were last touched in: the new run counts from 0
                if not takes_optimizer or saved.stack_of(table).optimizer.kind != stack.optimizer.kind:
                    arrays = {"rows": arrays["rows"]}
            tables[table] = {
                name: CarriedArray(
                    name,
                    fresh,
                    arrays.get(name),
                    old_rows if name in arrays else np.full(fresh.rows, NEW),
                    shift if name == "last_step" else 0,
                )
                for name in fresh.described
            }
            taken = int((old_rows != NEW).sum())
            state = "taken" if len(arrays) > 1 else "new"
            note = why or (state if takes_optimizer and len(fresh.described) > 1 else "")
            lines.append((table, f"{fresh.rows:,}", f"{taken:,}", f"{fresh.rows - taken:,}", note))
    return tables, lines


def _carry_dense(
    old: OldRun, saved: _Checkpoint, run: Run, state: TrainState, takes_optimizer: bool
) -> tuple[TrainState, list[str]]:
    """Takes dense weights, running statistics, and where all weights fit, start logits and the optimizer's state."""
    params, new = _carry_leaves(state.params, saved.dense["params"])
    statistics, _ = _carry_leaves(
        {name: tree for name, tree in state.statistics.items() if name != START_LOGITS},
        {name: tree for name, tree in saved.dense.get("statistics", {}).items() if name != START_LOGITS},
    )
    count = len(jax.tree.leaves(state.params))
    lines = [f"  dense weights: {count - len(new)} of {count} taken" + (f"; new: {_shorten(new)}" if new else "")]
    if differing := _compare_columns(old.schema, run.schema):
        lines.append(f"  {differing} differ between the runs; weights were taken by name and shape all the same")
    if START_LOGITS in state.statistics:
        start = state.statistics[START_LOGITS]
        if not new:
            carried = _carry_start_logits(old.schema, run.schema, saved.dense.get("statistics", {}), np.asarray(start))
            start = place_arrays(carried, start.sharding)
        statistics[START_LOGITS] = start
    elif not new and START_LOGITS in saved.dense.get("statistics", {}):
        raise UserError("its logits start at the labels' rates; set config.training.start_at_rate = True")
    optimizer_state = state.optimizer_state
    if takes_optimizer:
        stored = saved.dense["optimizer_state"]
        taken, missing = _carry_leaves(optimizer_state, stored)
        missing += ["of another optimizer"] * (len(jax.tree.leaves(stored)) != len(jax.tree.leaves(optimizer_state)))
        optimizer_state = optimizer_state if missing else taken
        lines.append(f"  state of the dense optimizer: {'new, as it has other arrays' if missing else 'taken'}")
    return state.replace(params=params, statistics=statistics, optimizer_state=optimizer_state), lines


def _carry_leaves(tree: Any, old: Any) -> tuple[Any, list[str]]:
    """Replaces the leaves that have the name, shape and dtype of an old leaf; returns also the names of the others."""
    found = {_path(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(old)}
    new: list[str] = []

    def carry(path: Any, leaf: Any) -> Any:
        stored = found.get(_path(path))
        if stored is None or (stored.shape, stored.dtype) != (leaf.shape, leaf.dtype):
            new.append(_path(path))
            return leaf
        return place_arrays(stored, leaf.sharding)

    return jax.tree_util.tree_map_with_path(carry, tree), new


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _carry_start_logits(old: Schema, new: Schema, statistics: Mapping[str, Any], start: np.ndarray) -> np.ndarray:
    """Takes the start logits [G, O] of the domains and objectives that the old run had; 0 if it had none."""
    carried = start.copy()
    new_domains, old_domains = (list(schema.domain_values or ("all",)) for schema in (new, old))
    new_names, old_names = ([label.name for label in schema.labels] for schema in (new, old))
    stored = statistics.get(START_LOGITS, np.zeros((len(old_domains), len(old_names)), np.float32))
    for row, domain in enumerate(new_domains):
        for column, name in enumerate(new_names):
            if domain in old_domains and name in old_names:
                carried[row, column] = stored[old_domains.index(domain), old_names.index(name)]
    return carried


def _compare_columns(old: Schema, new: Schema) -> str:
    """Names what differs in the order or number of columns, on which dense weights depend."""

    def list_names(schema: Schema) -> dict[str, list[str]]:
        return {
            "dense columns": [column.name for column in schema.dense],
            "id columns": [column.name for column in schema.id_columns],
            "domains": list(schema.domain_values),
            "objectives": [label.name for label in schema.labels],
        }

    before, now = list_names(old), list_names(new)
    return ", ".join(name for name in now if now[name] != before[name])


def _shorten(names: list[str], shown: int = 6) -> str:
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def _align(lines: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    return [
        "  "
        + f"{line[0]:{widths[0]}}  "
        + "  ".join(f"{line[i]:>{widths[i]}}" for i in (1, 2, 3))
        + (f"  {line[4]}" if line[4] else "")
        for line in lines
    ]


@contextlib.contextmanager
def _naming(config: RunConfig) -> Iterator[None]:
    """Names the key of the config in errors about the old run."""
    try:
        yield
    except UserError as error:
        text = str(error).removeprefix(f"--workdir = {config.warm_start}: ")
        raise UserError(f"config.warm_start = {config.warm_start!r}: {text}") from error
