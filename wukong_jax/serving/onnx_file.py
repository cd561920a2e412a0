"""Writes a run as an ONNX model, for onnxruntime and other runtimes; needs the extra `onnx`."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wukong_jax.embeddings.bfloat16_rounding import bits_to_float32
from wukong_jax.embeddings.pooling import pool_fields
from wukong_jax.embeddings.row_gather import compute_row_ids, gather_rows
from wukong_jax.embeddings.tables import LogicalTables, import_tables
from wukong_jax.errors import UserError
from wukong_jax.files.whole_folder import write_whole_folder
from wukong_jax.messages import describe_error
from wukong_jax.runs.open_run import OpenRun
from wukong_jax.serving.artefact import ONNX, write_manifest
from wukong_jax.serving.export import check_output, describe_artefact, read_golden_rows, write_encoding
from wukong_jax.serving.program import ServedNetwork, batch_of, flatten_network

_INPUTS = ("dense", "ids", "domain")


def export_onnx(opened: OpenRun, output: Path, say: Callable[[str], None] = print) -> None:
    """Writes a folder with `model.onnx`, its weights and float32 tables beside it, schema, vocabularies and manifest.

    The model's inputs are `dense` [b, F_dense] float32, `ids` [b, S] int32 (-1: no id), `domain` [b] int32 and the
    joined columns by name, as far as the network reads them; its output is `logits` [b, O] float32.

    Args:
      opened: the run.
      output: folder to create, or an artefact to replace.
      say: prints a message.

    Raises:
      UserError: the extra is not installed, the folder is no artefact, or an operation of the model has no ONNX form.
    """
    try:
        import jax2onnx  # noqa: F401
    except ImportError as error:
        raise UserError(f"--format = 'onnx': {error.name} is not installed; install wukong-jax[onnx]") from None
    check_output(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    served = flatten_network(opened.run, opened.state)
    stacks = {name: stack.rows for name, stack in import_tables(opened.run.layout, export_logical(opened)).items()}
    with write_whole_folder(output, replace=True) as folder:
        convert_to_onnx(served, stacks, len(opened.schema.dense), dict(opened.run.shape.extras), folder / ONNX)
        write_encoding(opened, folder)
        manifest = describe_artefact(opened, served, (), ("onnx",))
        write_manifest(folder, dataclasses.replace(manifest, kind="onnx"))
        say(_compare(opened, folder / ONNX))


def export_logical(opened: OpenRun) -> LogicalTables:
    """Copies the run's tables to the host."""
    return opened.run.exchange.export_tables(opened.state.tables)


def convert_to_onnx(
    served: ServedNetwork, stacks: Mapping[str, jax.Array], dense: int, extras: Mapping[str, int], path: Path
) -> None:
    """Converts a forward pass, with weights and tables as constants.

    Each stack of tables is one constant, so that it is read by one operation: runtimes pay for each.

    Args:
      served: the network.
      stacks: rows of each stack, [V, w] float32 or uint16 bits of bfloat16.
      dense: number of dense columns.
      extras: width of each joined column.
      path: the file to write.

    Raises:
      UserError: an operation of the model has no ONNX form.
    """
    import jax2onnx

    layout, leaves, widths = served.network.layout, list(served.leaves), list(extras.items())
    floats = {name: rows if rows.dtype == jnp.float32 else bits_to_float32(rows) for name, rows in stacks.items()}

    def score(dense: jax.Array, ids: jax.Array, domain: jax.Array, *joined: jax.Array) -> jax.Array:
        named = {name: values for (name, _), values in zip(widths, joined, strict=True)}
        values = {}
        for index, stack in enumerate(layout.stacks):
            rows = gather_rows(floats[stack.name], compute_row_ids(layout, index, ids))
            values[stack.name] = pool_fields(layout.fields_of_stack(index), rows, ids)
        return served(leaves, values, batch_of(dense, ids, domain, named))

    shape: Any = jax.ShapeDtypeStruct
    inputs = [
        shape(("B", dense), jnp.float32),
        shape(("B", layout.slots), jnp.int32),
        shape(("B",), jnp.int32),
        *(shape(("B", width), jnp.float32) for _, width in widths),
    ]
    names = [*_INPUTS, *(name for name, _ in widths)]
    with _quiet():
        try:
            jax2onnx.to_onnx(
                score,
                inputs,
                model_name="wukong_jax",
                return_mode="file",
                output_path=str(path),
                input_names=names,
                output_names=["logits"],
            )
        except Exception as error:  # of a converter with many plugins
            raise UserError(f"--format = 'onnx': the model cannot be converted ({describe_error(error)})") from error


def _compare(opened: OpenRun, path: Path) -> str:
    """Says how far the model's logits are from the run's on a few rows, if onnxruntime is installed."""
    from wukong_jax.serving.export import pad_batch

    try:
        import onnxruntime
    except ImportError:
        return "not compared with the run: onnxruntime is not installed"
    rows = read_golden_rows(opened)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = {"dense": rows.dense, "ids": rows.ids, "domain": rows.domain, **rows.extras}
    (found,) = session.run(None, {one.name: given[one.name] for one in session.get_inputs()})
    wanted = np.asarray(opened.predict_batch(pad_batch(rows, opened.run.mesh.size)))[: len(rows.ids)]
    return f"{len(rows.ids)} rows: onnxruntime's logits differ by at most {np.abs(found - wanted).max():.3g}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides the converter's warnings about types of intermediate shapes."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
