"""Prepares raw files here and puts the row blocks on an object store, `schema.json` last."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wukong_jax.data.raw.prepare import prepare_data
from wukong_jax.errors import UserError
from wukong_jax.files.object_store import ObjectFolder, publish_folder
from wukong_jax.schema import Schema


def prepare_to_store(
    schema: Schema,
    inputs: Sequence[str],
    url: str,
    *,
    overwrite: bool,
    **options: Any,
) -> dict[str, Any]:
    """Prepares a data set on an object store; it passes through the system's temporary folder, which must hold it.

    Args:
      schema: see `prepare_data`.
      inputs: see `prepare_data`.
      url: folder to create.
      overwrite: replace a prepared data set.
      **options: other arguments of `prepare_data`.

    Returns:
      The report; see `prepare_data`.

    Raises:
      UserError: as `prepare_data`, or the store does not answer.
    """
    folder = ObjectFolder(url)
    found = folder.list()
    if found and not overwrite:
        raise UserError(f"output {url}: exists; choose another folder or pass --overwrite")
    if found and ("schema.json" not in found or not any(name.startswith("blocks/") for name in found)):
        raise UserError(f"output {url}: not a prepared data set, so it is not overwritten; choose another folder")
    with tempfile.TemporaryDirectory(prefix="wukong-jax-rows-") as local:
        report = prepare_data(schema, inputs, Path(local) / "rows", overwrite=False, **options)
        publish_folder(Path(local) / "rows", folder, "schema.json")
    return report
