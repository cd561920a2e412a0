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
        if rows in self._calls:
            return np.asarray(self._calls[rows](dense, ids, domain, dict(extras)))
        logits = np.empty((rows, self.objectives), np.float32)
        for start in range(0, rows, largest):
            part = slice(start, min(start + largest, rows))
            count = part.stop - start
            bucket = next(size for size in self.buckets if size >= count)
            padded = self._empty(bucket)
            padded[0][:count], padded[1][:count], padded[2][:count] = dense[part], ids[part], domain[part]
            for name, values in extras.items():
                padded[3][name][:count] = values[part]
            logits[part] = np.asarray(self._calls[bucket](*padded))[:count]
        return logits

    def _compile(self, exported: Any, weights: list[jax.Array], rows: int) -> Callable[..., jax.Array]:
        """Compiles a bucket, from (dense, ids, domain, extras) to logits.

        For few rows, small weights are constants of the program: a fifth of the time of one row is spent on passing
        arguments. The compiler may then compute with them ahead, so that the last digit of a logit may differ.
        """
        if rows <= _FEW_ROWS and sum(array.nbytes for array in weights) <= _SMALL_BYTES:
            fixed = jax.jit(lambda *arguments: exported.call(weights, *arguments))
            compiled = fixed.lower(self._tables, *self._empty(rows)).compile()
            return functools.partial(compiled, self._tables)
        compiled = jax.jit(exported.call).lower(weights, self._tables, *self._empty(rows)).compile()
        return functools.partial(compiled, weights, self._tables)

    def _empty(self, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Returns the inputs of rows without ids."""
        return (
            np.zeros((rows, self.dense), np.float32),
            np.full((rows, self.slots), -1, np.int32),
            np.zeros(rows, np.int32),
            {name: np.zeros((rows, width), np.float32) for name, width in self.extras.items()},
        )


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
