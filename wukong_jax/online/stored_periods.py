"""Stores what belongs to a checkpoint of a run on a log: how far the log was read, id maps, and a prepared data set.

`<workdir>/data/<step>/` is written before the checkpoint of that step, and holds `schema.json`, `vocabulary/` (the
values that have rows), `blocks/` (the period's last rows), `scored_rows.npz` (the same, as they were scored), `id_map/`
and `log_place.json`. So evaluation, export and
warm starts read it as the rows of any other run.
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from wukong_jax.data.blocks.batch import Columns
from wukong_jax.data.blocks.preparation_report import RowStatistics
from wukong_jax.data.blocks.row_blocks import SPLITS, BlockWriter
from wukong_jax.data.raw.id_map import IdMap, load_id_map, save_id_map, to_vocabulary
from wukong_jax.data.raw.vocabulary import save_vocabulary, vocabulary_path
from wukong_jax.errors import UserError
from wukong_jax.files.whole_folder import write_whole_folder
from wukong_jax.online.log_periods import LogPlace
from wukong_jax.online.rules import is_mapped
from wukong_jax.runs.record import read_json_file
from wukong_jax.schema import Schema, schema_to_json
from wukong_jax.serving.export import SCORED_ROWS
from wukong_jax.strict_mapping import build_dataclass, to_mapping

KEPT_ROWS = 65_536  # of a period, from its end
_PLACE = "log_place.json"


@dataclasses.dataclass(frozen=True)
class LogProgress:
    """How far a run on a log has come."""

    place: LogPlace = dataclasses.field(default_factory=LogPlace)
    periods: int = 0  # trained on
    scored_rows: int = 0
    # sums over scored periods, weighted by their rows
    log_loss_sum: float = 0.0
    auc_sum: float = 0.0
    auc_rows: int = 0  # of periods whose AUC is defined
    clicks: float = 0.0  # of the first objective
    predicted_clicks: float = 0.0
    skipped_rows: int = 0  # that could not be read


def save_period(
    folder: Path,
    schema: Schema,
    maps: Mapping[str, IdMap],
    columns: Columns,
    scored: Mapping[str, np.ndarray] | None,
    progress: LogProgress,
) -> None:
    """Writes the folder that belongs to a checkpoint.

    Args:
      folder: `<workdir>/data/<step>`.
      schema: the resolved schema.
      maps: id maps after the period, by vocabulary.
      columns: rows of the period, with the ids of these maps.
      scored: logits, labels, label_mask and weight of the period's rows, as they were scored before it was trained on.
      progress: progress after the period.

    Raises:
      UserError: it cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with write_whole_folder(folder, replace=True) as aside:
        last = {name: np.ascontiguousarray(array[-KEPT_ROWS:]) for name, array in columns.items()}
        if scored is not None:
            np.savez(aside / SCORED_ROWS, **{name: array[-KEPT_ROWS:] for name, array in scored.items()})  # type: ignore[arg-type]
        statistics = RowStatistics(schema)
        statistics.add(0, last)
        for split in SPLITS:
            with BlockWriter(aside, split, schema) as writer:
                if split == "train":
                    writer.append(last)
        for name, ids in maps.items():
            save_vocabulary(to_vocabulary(ids), aside / "vocabulary", name)
            save_id_map(ids, vocabulary_path(aside / "id_map", name))
        (aside / "schema.json").write_text(schema_to_json(schema), encoding="utf-8")
        report = statistics.report(schema, {})
        (aside / "report.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        (aside / _PLACE).write_text(json.dumps(to_mapping(progress), indent=1) + "\n", encoding="utf-8")


def load_period(folder: Path, schema: Schema) -> tuple[dict[str, IdMap], LogProgress]:
    """Reads id maps and progress that `save_period` wrote.

    Raises:
      UserError: a file is missing or damaged.
    """
    mapping = read_json_file(folder / _PLACE, dict)
    if mapping is None:
        raise UserError(f"{folder / _PLACE}: is missing; use a copy of the run")
    owners = [column.name for column in schema.id_columns if is_mapped(column)]
    maps = {name: load_id_map(vocabulary_path(folder / "id_map", name)) for name in owners}
    return maps, build_dataclass(LogProgress, mapping, str(folder / _PLACE))


def remove_periods(folder: Path, keep: set[int]) -> None:
    """Deletes the folders of checkpoints that are gone.

    Args:
      folder: `<workdir>/data`.
      keep: steps of the checkpoints that are there.
    """
    for own in folder.iterdir():
        if own.is_dir() and own.name.isdigit() and int(own.name) not in keep:
            shutil.rmtree(own, ignore_errors=True)
