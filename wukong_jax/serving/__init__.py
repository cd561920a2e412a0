"""Exports trained runs as artefacts, and scores rows with them: no model code, no Flax, no training data.

    wukong-jax export --workdir=runs/mine --output=served/mine

    from wukong_jax.serving import load_scorer

    scorer = load_scorer("served/mine")
    scorer.score([{"price": 3.5, "item": "a17", "visited": ["a3", "a9"]}])  # probabilities [rows, objectives]

An artefact is a folder, written aside and renamed:

    manifest.json       format, versions, date until which it is readable, config, metrics, tables, digests of all files
    model.stablehlo     the program from ids to logits (`jax.export`), for any number of rows and several platforms
    weights.npz         the dense weights and running statistics, one array a leaf
    tables/0000.rows.npy, ...   one table a file, in the order of the manifest; int8 tables also have 0000.scales.npy
    schema.json         the resolved schema
    vocabulary/         the vocabularies of its columns, as in prepared data
    golden.npz          a few rows with the logits that the exporting machine computed
    calibration.npz     maps of logits behind the scores, if the export was asked to calibrate them (`recalibration`)

**The program** reads table rows, pools bags, assembles tokens and runs the network; it is the same traced code that
`predict` runs. Weights and tables are its arguments, not constants: it stays small (tens of kB), and on a CPU the
tables are used where the operating system maps their files, without a copy. So tables may be larger than memory,
several processes share one copy, and a start reads no table. On other devices the tables are copied once.

**Tables** are float32, bfloat16 (its 16 bits as uint16), or int8 with one float32 scale a row, its largest magnitude
over 127. Rows are converted to float32 in the program, after they were read.

**Rows** are encoded by the functions that encode training rows (`data.raw.row_encoder`), or by
`data.raw.plain_rows`, which takes the values of a few rows in one pass and calls the same functions for what is not
plain. Both are tested to be equal for every kind of column.

**Batches** are padded to a few sizes (buckets), each compiled when the scorer is loaded. Padding has no ids.

**What is checked at load:** format and digests (of tables, the size and the header only, unless asked), that the
program calls nothing outside itself, that this JAX reads it, and that the golden rows still get their logits. NumPy
files are read without pickle. Every mistake is a `UserError` of one line.

`load_scorer` needs jax and numpy, and polars for raw rows. The names here are imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wukong_jax.serving.scorer import Scorer, load_scorer

__all__ = ["Scorer", "load_scorer"]


def __getattr__(name: str) -> Any:
    """Imports a public name on first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("wukong_jax.serving.scorer"), name)
