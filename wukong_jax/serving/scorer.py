"""Scores rows with an artefact: encodes raw rows, and runs the program in batches of a few sizes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from wukong_jax.errors import UserError
from wukong_jax.files.object_store import is_store_url
from wukong_jax.messages import describe_error
from wukong_jax.schema import Schema, load_schema
from wukong_jax.serving.artefact import GOLDEN, PROGRAM, SCHEMA, VOCABULARY, Manifest, check_files, read_manifest
from wukong_jax.serving.loaded_program import LoadedProgram
from wukong_jax.serving.recalibration import apply_maps, load_maps
from wukong_jax.serving.stored_artefacts import copy_artefact
from wukong_jax.serving.table_files import read_arrays

BUCKETS = (1, 16, 64, 256, 1024)
_LARGEST_BUCKET = 1 << 20
_INT32, _FLOAT32, _UNSIGNED = np.dtype(np.int32), np.dtype(np.float32), 1 << 32


class Scorer:
    """A loaded artefact. Its methods may be called from several threads.

    Attributes:
      folder: the artefact's folder.
      manifest: its manifest.
      schema: the resolved schema.
      calibration: maps of the logits behind the scores, one an objective; empty: scores are the run's.
    """

    def __init__(self, folder: Path, manifest: Manifest, schema: Schema, program: LoadedProgram) -> None:
        """Combines the parts; use `load_scorer`."""
        self.folder, self.manifest, self.schema = folder, manifest, schema
        self.calibration = load_maps(folder, len(manifest.objectives)) if manifest.calibration else ()
        self._program = program
        self._domains = max(1, len(schema.domain_values))
        self._encoder = _load_encoder(schema, folder / VOCABULARY)

    def score(self, rows: Any, extras: Mapping[str, Any] | None = None) -> np.ndarray:
        """Scores raw rows.

        Args:
          rows: a list of mappings from column to value, a polars or pandas frame, or a mapping of columns, with the
            columns of the raw training files. Labels, timestamp, group and weight are not read and may be absent. None
            and NaN are missing values; a bag is a list, or a text with the schema's separator.
          extras: [rows, width] of each joined column, if the run had any.

        Returns:
          [rows, O] float64 probabilities, in the order of the rows and of `manifest.objectives`.

        Raises:
          UserError: polars is not installed, a column is missing, or a value cannot be read.
        """
        columns = self.encode(rows)
        return self.score_arrays(columns["ids"], columns["dense"], columns["domain"], extras)

    def score_each(self, rows: Sequence[Mapping[str, Any]]) -> list[np.ndarray | str]:
        """Scores raw rows; a row that cannot be read gets its message, and does not keep the others from being scored.

        Args:
          rows: mappings as for `score`.

        Returns:
          For each row, [O] float64 probabilities, or the message of its error.
        """
        columns, errors = self._require_encoder().encode_each(rows)
        scores = iter(self.score_arrays(columns["ids"], columns["dense"], columns["domain"]))
        return [errors[row] if row in errors else next(scores) for row in range(len(rows))]

    def score_arrays(
        self,
        ids: Any,
        dense: Any = None,
        domain: Any = None,
        extras: Mapping[str, Any] | None = None,
    ) -> np.ndarray:
        """Scores encoded rows.

        Args:
          ids: [n, S] integers, each slot's id within its column's vocabulary; -1: no id.
          dense: [n, F_dense] transformed dense columns; may be left out if there are none.
          domain: [n] integers in [0, G); 0 if left out.
          extras: [n, width] of each joined column.

        Returns:
          [n, O] float64 probabilities.

        Raises:
          UserError: an array is missing, or has another shape or type.
        """
        return expit(apply_maps(self.calibration, self.compute_logits(ids, dense, domain, extras)))

    def compute_logits(
        self, ids: Any, dense: Any = None, domain: Any = None, extras: Mapping[str, Any] | None = None
    ) -> np.ndarray:
        """Returns the run's logits [n, O] float32; `score_arrays` returns their probabilities, calibrated if asked."""
        program = self._program
        checked = _check_array("ids", ids, _INT32, (program.slots,), None)
        rows = len(checked)
        dense = _check_array("dense", dense, _FLOAT32, (program.dense,), rows)
        domain = _check_array("domain", domain, _INT32, (), rows)
        largest = domain.item() % _UNSIGNED if rows == 1 else domain.view(np.uint32).max(initial=0)
        if largest >= self._domains:  # a negative one is the largest of all
            raise UserError(
                f"domain: from {domain.min()} to {domain.max()}; give domains from 0 to {self._domains - 1}"
            )
        joined = self._check_extras(extras or {}, rows) if extras or program.extras else {}
        return program.run(dense, checked, domain, joined)

    def _check_extras(self, extras: Mapping[str, Any], rows: int) -> dict[str, np.ndarray]:
        widths = self._program.extras
        if set(extras) != set(widths):
            wanted = ", ".join(sorted(widths)) or "none"
            raise UserError(f"extras: {', '.join(sorted(extras)) or 'none'}; this artefact needs {wanted}")
        return {
            name: _check_array(f"extras[{name!r}]", extras[name], _FLOAT32, (width,), rows)
            for name, width in widths.items()
        }

    def encode(self, rows: Any) -> Mapping[str, np.ndarray]:
        """Encodes raw rows as `score` does: the arrays `ids`, `dense` and `domain` of `score_arrays`.

        Raises:
          UserError: as `score`.
        """
        return self._require_encoder().encode(rows)

    def _require_encoder(self) -> Any:
        self.schema.source.require_raw_files()
        if self._encoder is None:
            raise UserError("polars: is not installed, and raw rows need it; install polars, or use score_arrays")
        return self._encoder


def load_scorer(folder: str | Path, buckets: Sequence[int] = BUCKETS, check_tables: bool = False) -> Scorer:
    """Loads an artefact, compiles it, and checks it.

    Args:
      folder: a folder that `wukong-jax export` wrote, or its URL on an object store, of which a copy is kept in the
        user's cache folder; from anyone, as nothing in it can run code.
      buckets: sizes to which batches are padded; each is compiled now. More rows are scored in several batches.
      check_tables: also compute the digests of the tables, which reads them whole.

    Returns:
      The scorer.

    Raises:
      UserError: the folder is no artefact, a file is missing, damaged or was changed, this JAX cannot read it, or the
        golden rows get other logits than when it was exported.
    """
    folder = copy_artefact(str(folder)) if is_store_url(folder) else Path(folder)
    if not buckets or not all(isinstance(size, int) and 1 <= size <= _LARGEST_BUCKET for size in buckets):
        raise UserError(f"buckets = {list(buckets)}: give batch sizes from 1 to {_LARGEST_BUCKET}")
    manifest = read_manifest(folder)
    if manifest.kind != "stablehlo":
        raise UserError(f"{folder}: was exported with --format={manifest.kind}; export it without, or run it yourself")
    check_files(folder, manifest, check_tables)
    schema = load_schema(folder / SCHEMA)
    if tuple(label.name for label in schema.labels) != manifest.objectives:
        raise UserError(f"{folder / SCHEMA}: has other objectives than the manifest; export the run again")
    program = LoadedProgram(folder, manifest, buckets)
    if (program.slots, program.dense) != (schema.slots, len(schema.dense)):
        raise UserError(f"{folder / PROGRAM}: has other columns than {SCHEMA}; export the run again")
    scorer = Scorer(folder, manifest, schema, program)
    check_golden_rows(scorer)
    return scorer


def check_golden_rows(scorer: Scorer) -> float:
    """Scores the artefact's golden rows.

    Returns:
      The largest difference between their logits and those at the export, relative to magnitudes above 1.

    Raises:
      UserError: it is above the manifest's tolerance.
    """
    path = scorer.folder / GOLDEN
    rows = read_arrays(path)
    try:
        extras = {name.partition("/")[2]: rows[name] for name in rows if name.startswith("extras/")}
        wanted = rows["logits"]
        found = scorer.compute_logits(rows["ids"], rows["dense"], rows["domain"], extras)
        if found.shape != wanted.shape:
            raise ValueError(f"logits {list(wanted.shape)}")
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:
        raise UserError(f"{path}: cannot read ({describe_error(error)}); copy or export it again") from None
    differences = np.abs(found - wanted) / np.maximum(1.0, np.abs(wanted))
    largest = float(differences.max(initial=0.0))
    if not largest <= scorer.manifest.tolerance:
        raise UserError(
            f"{path}: logits differ by {largest:.3g} from those at the export, more than "
            f"{scorer.manifest.tolerance:g}; the files do not belong together, or this device computes otherwise: "
            "export on it"
        )
    return largest


def _check_array(
    name: str, values: Any, kind: np.dtype[Any], trailing: tuple[int, ...], rows: int | None
) -> np.ndarray:
    """Returns an array [rows, *trailing] of a type; None stands for zeros of columns that are not there."""
    if type(values) is np.ndarray and values.dtype == kind and values.ndim == len(trailing) + 1:  # without a detour
        shape = values.shape
        if shape[1:] == trailing and (rows is None or shape[0] == rows):
            return values
    if values is None and rows is not None and (trailing == (0,) or not trailing):
        return np.zeros((rows, *trailing), kind)
    try:
        array = np.asarray(values)
        if array.dtype.kind not in ("iu" if kind is _INT32 else "iuf"):
            raise UserError(f"{name}: holds {array.dtype}; give {'integers' if kind is _INT32 else 'numbers'}")
        shape = (len(array) if rows is None else rows, *trailing)
        if array.shape != shape:
            raise UserError(f"{name}: has shape {list(array.shape)}; give {list(shape)}")
        if array.dtype == kind:
            return array
        if kind is _INT32:
            return np.clip(array, -1, 2**31 - 1).astype(np.int32)  # beyond 32 bits lies beyond every table
        with np.errstate(over="ignore"):
            return array.astype(kind)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{name}: no array ({describe_error(error)}); give {['n', *trailing]}") from None


def _load_encoder(schema: Schema, vocabularies: Path) -> Any:
    if schema.source.format == "merged":
        return None
    try:
        import polars  # noqa: F401
    except ImportError:
        return None
    from wukong_jax.data.raw.memory_rows import MemoryEncoder

    return MemoryEncoder(schema, vocabularies)
