"""Writes the artefact of a run: its program, weights, tables, vocabularies, golden rows and manifest."""

import dataclasses
import datetime
import importlib.metadata
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from wukong_jax.config import run_config_to_json
from wukong_jax.data.blocks.batch import Batch
from wukong_jax.data.blocks.row_join import JoinedBlocks
from wukong_jax.data.raw.vocabulary import vocabulary_path
from wukong_jax.errors import UserError
from wukong_jax.files.whole_folder import write_whole_folder
from wukong_jax.metrics.metric_names import replace_nan_by_none
from wukong_jax.runs.evaluation import Predict, evaluate_split, find_split, read_in_order
from wukong_jax.runs.open_run import OpenRun
from wukong_jax.runs.record import read_json_file
from wukong_jax.schema import Schema, schema_to_json
from wukong_jax.serving.artefact import (
    FORMAT,
    GOLDEN,
    PROGRAM,
    SCHEMA,
    VOCABULARY,
    WEIGHTS,
    Manifest,
    ServedTable,
    TableDtype,
    last_readable_day,
    write_manifest,
)
from wukong_jax.serving.loaded_program import LoadedProgram
from wukong_jax.serving.program import PLATFORMS, ServedNetwork, export_program, flatten_network
from wukong_jax.serving.recalibration import Kind, apply_maps, fit_maps, save_maps
from wukong_jax.serving.scorer import Scorer, load_scorer
from wukong_jax.serving.table_files import read_arrays, write_table

_GOLDEN_ROWS = 16
PROGRESSIVE, SCORED_ROWS = "progressive", "scored_rows.npz"  # of a log's last period, see `wukong_jax.online`
_SPLITS = ("test", "validation", "train")
# Of logits on another processor or device, by the dtype of the products: orders of addition and fused products differ.
_TOLERANCES = {"float32": 1e-3, "bfloat16": 5e-2}
_VERSIONS = ("wukong-jax", "jax", "jaxlib", "flax", "numpy")


def export_run(
    opened: OpenRun,
    output: Path,
    *,
    platforms: Sequence[str] = PLATFORMS,
    tables: TableDtype | None = None,
    evaluate: str = "",
    calibrate: Kind | None = None,
    calibrate_on: str = "validation",
    say: Callable[[str], None] = print,
) -> Scorer:
    """Exports a run's best state.

    Args:
      opened: the run.
      output: folder to create, or an artefact to replace.
      platforms: platforms of JAX to export for.
      tables: how to store tables; None: as they were trained.
      evaluate: split on which to compare the artefact's metrics with the run's; none if empty.
      calibrate: how to correct the scores' calibration; None: not at all.
      calibrate_on: split by whose rows to do so, or "progressive": the last period of a log, as it was scored before it
        was trained on.
      say: prints a message.

    Returns:
      The artefact, loaded for a few rows, its golden rows checked.

    Raises:
      UserError: the folder is no artefact or cannot be written, the model cannot be exported, or the data has no such
        split.
    """
    for platform in platforms:
        if platform not in (*PLATFORMS, "rocm"):
            raise UserError(f"--platforms = {platform!r}: not one of {', '.join((*PLATFORMS, 'rocm'))}")
    if evaluate:
        find_split(opened.data, evaluate)
    maps = fit_maps(calibrate, read_scored_rows(opened, calibrate_on), names_of(opened)) if calibrate else ()
    check_output(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with write_whole_folder(output, replace=True) as folder:
        served = flatten_network(opened.run, opened.state)
        stored = write_tables(opened, folder, tables)
        widths = dict(opened.run.shape.extras)
        program = export_program(served, stored, len(opened.schema.dense), widths, platforms)
        (folder / PROGRAM).write_bytes(program)
        leaves = dict(zip(served.names, map(np.asarray, served.leaves), strict=True))
        np.savez(folder / WEIGHTS, **leaves)  # type: ignore[arg-type]
        write_encoding(opened, folder)
        manifest = describe_artefact(opened, served, stored, platforms)
        scorer = build_scorer(folder, manifest, opened.schema, (_GOLDEN_ROWS, *((1024,) if evaluate else ())))
        _write_golden_rows(opened, folder, scorer, say)
        if calibrate:
            save_maps(folder, maps)
            scorer.calibration = maps
            manifest = dataclasses.replace(manifest, calibration={"kind": calibrate, "split": calibrate_on})
        if evaluate:
            manifest = _evaluate(opened, scorer, evaluate, manifest, say)
        write_manifest(folder, manifest)
        del scorer
    return load_scorer(output, (_GOLDEN_ROWS,))


def check_output(output: Path) -> None:
    """Refuses a folder that is something else than an artefact, so that no other folder is ever replaced.

    Raises:
      UserError: it is.
    """
    if output.exists() and not (output / "manifest.json").is_file() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output = {output}: exists, and is no artefact; give another folder, or remove it")


def write_tables(opened: OpenRun, folder: Path, dtype: TableDtype | None) -> list[ServedTable]:
    """Writes the rows of all tables, without their optimizer arrays."""
    logical = opened.run.exchange.export_tables(opened.state.tables)
    trained = {table: stack.dtype for stack in opened.run.layout.stacks for table in stack.tables}
    names = [column.name for column in opened.schema.id_columns if column.vocabulary_of is None]
    return [
        write_table(folder, index, name, logical[name]["rows"], dtype or trained[name])
        for index, name in enumerate(names)
    ]


def write_encoding(opened: OpenRun, folder: Path) -> None:
    """Writes the resolved schema and copies the vocabularies."""
    (folder / SCHEMA).write_text(schema_to_json(opened.schema), encoding="utf-8")
    (folder / VOCABULARY).mkdir()
    for column in opened.schema.id_columns:
        if column.vocabulary_of is None and column.encoding == "vocabulary":
            source = vocabulary_path(opened.data.vocabulary, column.name)
            if not source.is_file():
                raise UserError(f"vocabulary {source}: no such file; raw rows cannot be encoded without it")
            shutil.copyfile(source, vocabulary_path(folder / VOCABULARY, column.name))


def describe_artefact(
    opened: OpenRun, served: ServedNetwork, tables: Sequence[ServedTable], platforms: Sequence[str]
) -> Manifest:
    """Builds the manifest, without files."""
    today = datetime.datetime.now(datetime.UTC).date()
    summary = {} if opened.folder is None else read_json_file(opened.folder / "summary.json", dict) or {}
    metrics = {split: summary[split] for split in ("validation", "test") if split in summary}
    return Manifest(
        format=FORMAT,
        kind="stablehlo",
        name=opened.config.name,
        created=today.isoformat(),
        readable_until=last_readable_day(today).isoformat(),
        versions={name: _find_version(name) for name in _VERSIONS},
        platforms=tuple(platforms),
        step=int(opened.state.step),
        objectives=names_of(opened),
        weights=served.names,
        tables=tuple(tables),
        extras=dict(opened.run.shape.extras),
        tolerance=_TOLERANCES[opened.config.training.compute_dtype],
        config=json.loads(run_config_to_json(opened.config)),
        metrics=replace_nan_by_none(metrics),
    )


def names_of(opened: OpenRun) -> tuple[str, ...]:
    """Returns the names of a run's objectives."""
    return tuple(label.name for label in opened.schema.labels)


def read_scored_rows(opened: OpenRun, split: str) -> Mapping[str, np.ndarray]:
    """Returns logits, labels, label_mask and weight of the rows by which scores are calibrated.

    Raises:
      UserError: the run has no such rows.
    """
    if split != PROGRESSIVE:
        if split not in opened.data.splits:
            known = ", ".join(opened.data.splits)
            raise UserError(f"--calibrate_on = {split!r}: the data has only {known}; of a log, give {PROGRESSIVE}")
        return opened.score_split(split)
    path = opened.data.directory / SCORED_ROWS
    if not path.is_file():
        raise UserError(
            f"--calibrate_on = {split!r}: the run has no period that was scored before it was trained on; give a split"
        )
    return read_arrays(path)


def _find_version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # of a clone that is not installed
        return "not installed"


def _write_golden_rows(opened: OpenRun, folder: Path, scorer: Scorer, say: Callable[[str], None]) -> None:
    """Writes a few rows with the artefact's own logits, and says how far the run's are from them."""
    rows = read_golden_rows(opened)
    logits = compute_batch_logits(scorer, rows)
    arrays = {"dense": rows.dense, "ids": rows.ids, "domain": rows.domain, "logits": logits}
    arrays |= {f"extras/{name}": values for name, values in rows.extras.items()}
    np.savez(folder / GOLDEN, **arrays)
    wanted = np.asarray(opened.predict_batch(pad_batch(rows, opened.run.mesh.size)))[: len(rows.ids)]
    difference = float(np.abs(logits - wanted).max(initial=0.0))
    say(f"{len(rows.ids)} golden rows: logits differ by at most {difference:.3g} from the run's")


def read_golden_rows(opened: OpenRun) -> Batch:
    """Returns up to 16 rows, as far apart as they are in a batch of the first split that has rows."""
    split = next(split for split in _SPLITS if split in opened.data.splits)
    blocks, join = opened.data.splits[split], opened.data.join
    source = blocks if join is None else JoinedBlocks(blocks, join)
    batch = next(read_in_order(source, opened.schema, min(4096, blocks.rows)))
    chosen = np.unique(np.linspace(0, len(batch.ids) - 1, _GOLDEN_ROWS).astype(int))
    return jax.tree.map(lambda array: np.asarray(array)[chosen], batch)


def pad_batch(batch: Batch, multiple: int) -> Batch:
    """Repeats the last row until the rows are a multiple of a number, the devices of a mesh."""
    missing = -len(batch.ids) % multiple

    def pad(array: np.ndarray) -> np.ndarray:
        return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])

    return jax.tree.map(pad, batch._replace(timestamp=None, group=None))


def build_scorer(folder: Path, manifest: Manifest, schema: Schema, buckets: Sequence[int]) -> Scorer:
    """Loads an artefact that has no manifest yet."""
    return Scorer(folder, manifest, schema, LoadedProgram(folder, manifest, buckets))


def compute_batch_logits(scorer: Scorer, batch: Batch) -> np.ndarray:
    """Returns the artefact's logits of a batch, [B, O] float32."""
    extras = {name: np.asarray(values) for name, values in batch.extras.items()}
    return scorer.compute_logits(np.asarray(batch.ids), np.asarray(batch.dense), np.asarray(batch.domain), extras)


def evaluate_artefact(opened: OpenRun, predict: Predict, split: str) -> Mapping[str, float]:
    """Computes the metrics of a split with another way to predict its batches."""
    run, source = opened.run, find_split(opened.data, split)
    exact = run.config.training.exact_auc_rows
    return evaluate_split(predict, source, run.schema, run.evaluation_batch_size, run.mesh, exact).metrics


def _evaluate(opened: OpenRun, scorer: Scorer, split: str, manifest: Manifest, say: Callable[[str], None]) -> Manifest:
    before = evaluate_artefact(opened, opened.predict_batch, split)
    after = evaluate_artefact(
        opened,
        lambda batch: apply_maps(scorer.calibration, compute_batch_logits(scorer, batch)),  # type: ignore[arg-type, return-value]
        split,
    )
    for name in ("auc", "log_loss", "normalized_entropy", *(("calibration",) if scorer.calibration else ())):
        if name in before:
            say(f"{split} {name}: run {before[name]:.6f}, artefact {after[name]:.6f}")
    measured = {
        f"{split} of the artefact": replace_nan_by_none(dict(after)),
        f"{split} of the run": replace_nan_by_none(dict(before)),
    }
    metrics: dict[str, Any] = {**manifest.metrics, **measured}
    return dataclasses.replace(manifest, metrics=metrics)
