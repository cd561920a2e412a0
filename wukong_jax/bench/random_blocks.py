"""Writes row blocks of random rows, for benches that read their input from files."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from wukong_jax.bench.train_step import draw_batch
from wukong_jax.data.blocks.row_blocks import SPLITS, BlockWriter
from wukong_jax.schema import schema_to_json
from wukong_jax.training.run import Run

_DRAWN_ROWS = 1 << 17  # more rows repeat these


def write_random_blocks(folder: Path, run: Run, rows: Mapping[str, int]) -> None:
    """Writes rows with random labels and Zipf-distributed ids.

    Args:
      folder: the folder to create.
      run: gives the schema.
      rows: rows of each split; none of a split that is left out.
    """
    folder.mkdir(parents=True)
    (folder / "schema.json").write_text(schema_to_json(run.schema), encoding="utf-8")
    drawn = min(max(rows.values()), _DRAWN_ROWS)
    batch = draw_batch(run, drawn)
    columns: dict[str, np.ndarray] = {name: getattr(batch, name) for name in run.schema.column_shapes()}
    columns["timestamp"] = columns["timestamp"].astype(np.int64)
    for split in SPLITS:
        with BlockWriter(folder, split, run.schema) as writer:
            for start in range(0, rows.get(split, 0), drawn):
                writer.append({name: column[: rows[split] - start] for name, column in columns.items()})
