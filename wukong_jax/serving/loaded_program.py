"""Reads an exported program, checks that it is only arithmetic, and compiles it for a few batch sizes."""

import datetime
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from wukong_jax.errors import UserError
from wukong_jax.messages import describe_error
from wukong_jax.serving.artefact import PROGRAM, WEIGHTS, Manifest
from wukong_jax.serving.table_files import map_table, read_arrays

_FEW_ROWS, _SMALL_BYTES = 16, 16 << 20
_PLATFORM_NAMES = {"gpu": "cuda"}
# Calls of a program that stay inside the compiler: checks of shapes, and operations of StableHLO's own dialects.
_KNOWN_CALLS = re.compile(r"shape_assertion|(?:stablehlo|chlo|mhlo)\.\w+")


def run_on_calling_thread() -> None:
    """Makes JAX run programs of a CPU on the thread that calls them; it takes effect before JAX's first computation.

    Otherwise JAX hands them to another thread and returns, which a caller that waits for its scores only pays for: a
    tenth of the time of one row. For processes that do nothing but score.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)


class LoadedProgram:
    """The program of an artefact with its weights and tables, compiled for batches of some sizes."""

    def __init__(self, folder: Path, manifest: Manifest, buckets: Sequence[int]) -> None:
        """Reads the program, maps the tables, and compiles.

        Args:
          folder: the artefact.
          manifest: its manifest.
          buckets: batch sizes.

        Raises:
          UserError: this JAX cannot read or run the program, or an array does not fit it.
        """
        exported = _read_program(folder, manifest)
        platform = jax.default_backend()
        if _PLATFORM_NAMES.get(platform, platform) not in exported.platforms:
            raise UserError(
                f"{folder / PROGRAM}: was exported for {', '.join(exported.platforms)}, this process uses {platform}; "
                "export with --platforms, or set JAX_PLATFORMS"
            )
        self.buckets = tuple(sorted(set(buckets)))
        device = jax.devices()[0]
        # On a CPU, both stay where they are: the tables in their mapped files.
        arrays = (
            _read_weights(folder, manifest),
            [map_table(folder, index, table) for index, table in enumerate(manifest.tables)],
        )
        weights, self._tables = jax.tree.map(lambda array: jax.device_put(array, device, may_alias=True), arrays)
        self.dense, self.slots, self.extras = _read_inputs(folder, exported, manifest, (weights, self._tables))
        self.objectives = len(manifest.objectives)
        try:
            self._calls = {rows: self._compile(exported, weights, rows) for rows in self.buckets}
        except (ValueError, TypeError, RuntimeError) as error:
            raise UserError(f"{folder / PROGRAM}: cannot compile ({describe_error(error)}); export it again") from error

    def run(
        self, dense: np.ndarray, ids: np.ndarray, domain: np.ndarray, extras: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """Computes the logits of any number of rows, in pieces of the largest bucket.

        Args:
          dense: [n, F_dense] float32.
          ids: [n, S] int32.
          domain: [n] int32.
          extras: [n, width] float32 by name.

        Returns:
          [n, O] float32.
        """
        rows, largest = len(ids), self.buckets[-1]
        call = self._calls.get(rows)
        if call is not None:
            return np.asarray(call(self._pack(rows, dense, ids, domain, extras)))
        logits = np.empty((rows, self.objectives), np.float32)
        for start in range(0, rows, largest):
            part = slice(start, min(start + largest, rows))
            count = part.stop - start
            bucket = next(size for size in self.buckets if size >= count)
            joined = {name: values[part] for name, values in extras.items()}
            packed = self._pack(bucket, dense[part], ids[part], domain[part], joined)
            logits[part] = np.asarray(self._calls[bucket](packed))[:count]
        return logits

    def _compile(self, exported: Any, weights: list[jax.Array], rows: int) -> Callable[..., jax.Array]:
        """Compiles a bucket, from the packed inputs to logits.

        For few rows, small weights are constants of the program: passing them as arguments would take a fifth of the
        time of one row. The compiler may then compute with them ahead, so that the last digit of a logit may differ.
        """
        packed = jax.ShapeDtypeStruct((rows, self._columns), np.int32)
        if rows <= _FEW_ROWS and sum(array.nbytes for array in weights) <= _SMALL_BYTES:
            fixed = jax.jit(lambda tables, packed: exported.call(weights, tables, *self._unpack(packed)))
            return functools.partial(fixed.lower(self._tables, packed).compile(), self._tables)
        called = jax.jit(lambda weights, tables, packed: exported.call(weights, tables, *self._unpack(packed)))
        return functools.partial(called.lower(weights, self._tables, packed).compile(), weights, self._tables)

    @property
    def _floats(self) -> int:
        return self.dense + sum(self.extras.values())

    @property
    def _columns(self) -> int:
        return self._floats + self.slots + 1

    def _pack(
        self, bucket: int, dense: np.ndarray, ids: np.ndarray, domain: np.ndarray, extras: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """Joins the inputs of up to `bucket` rows: each array that is passed takes microseconds.

        Returns:
          [bucket, columns] int32: the bits of dense and joined columns, then ids and domain. What is not a row has no
          ids.
        """
        count, floats = len(ids), self._floats
        packed = np.empty((bucket, self._columns), np.int32)
        numbers = packed.view(np.float32)
        numbers[:count, : self.dense] = dense
        start = self.dense
        for name, width in self.extras.items():
            numbers[:count, start : start + width] = extras[name]
            start += width
        packed[:count, floats:-1] = ids
        packed[:count, -1] = domain
        if count < bucket:
            packed[count:] = 0
            packed[count:, floats:-1] = -1
        return packed

    def _unpack(self, packed: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, dict[str, jax.Array]]:
        """Returns the dense, ids, domain and extras of packed inputs, in the program."""
        numbers = jax.lax.bitcast_convert_type(packed[:, : self._floats], np.float32)
        starts = np.cumsum([self.dense, *self.extras.values()]).tolist()
        extras = {
            name: numbers[:, start : start + width]
            for start, (name, width) in zip(starts, self.extras.items(), strict=False)
        }
        return numbers[:, : self.dense], packed[:, self._floats : -1], packed[:, -1], extras


def _read_program(folder: Path, manifest: Manifest) -> Any:
    """Reads the program, and refuses one that calls anything outside itself."""
    path = folder / PROGRAM
    written, created = manifest.versions.get("jax", "?"), manifest.created
    fix = f"export the run again, or install jax=={written}"
    try:
        past = datetime.date.today() > datetime.date.fromisoformat(manifest.readable_until)
    except ValueError:
        raise UserError(f"{folder}: readable_until = {manifest.readable_until[:20]!r}: no date; {fix}") from None
    if past and written != jax.__version__:
        raise UserError(
            f"{path}: was readable by later versions of JAX until {manifest.readable_until}, and this is "
            f"{jax.__version__}; {fix}"
        )
    try:
        exported = export.deserialize(bytearray(path.read_bytes()))
        calls = set(re.findall(r'custom_call\s+@"?([^"(\s]+)', exported.mlir_module()))
    except Exception as error:  # of several libraries, on bytes that they do not know
        raise UserError(
            f"{path}: JAX {jax.__version__} cannot read this program of JAX {written} of {created} "
            f"({describe_error(error)}); {fix}"
        ) from None
    unknown = sorted(call for call in calls if not _KNOWN_CALLS.fullmatch(call))
    if unknown:
        raise UserError(f"{path}: calls {unknown[0]!r}, which is no arithmetic; do not run it, export the run again")
    return exported


def _read_weights(folder: Path, manifest: Manifest) -> list[np.ndarray]:
    path = folder / WEIGHTS
    try:
        stored = read_arrays(path)
        return [stored[name] for name in manifest.weights]
    except KeyError as error:
        raise UserError(f"{path}: has no array {error}; export the run again") from None


def _read_inputs(folder: Path, exported: Any, manifest: Manifest, arrays: Any) -> tuple[int, int, dict[str, int]]:
    """Returns F_dense, S and the extras of the program, after comparing its arguments with the arrays."""
    try:
        (*found, dense, ids, _, extras), _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
        fits = jax.tree.map(
            lambda aval, array: (aval.shape, aval.dtype) == (array.shape, array.dtype), found, [*arrays]
        )
        (logits,) = exported.out_avals
        widths = {name: int(aval.shape[1]) for name, aval in extras.items()}
        if not jax.tree.all(fits) or logits.shape[1] != len(manifest.objectives) or widths != dict(manifest.extras):
            raise ValueError("other shapes")
        return int(dense.shape[1]), int(ids.shape[1]), widths
    except (ValueError, TypeError, AttributeError, IndexError, KeyError):
        raise UserError(f"{folder / PROGRAM}: does not fit the weights and tables beside it; export it again") from None
