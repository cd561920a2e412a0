"""Guards rows that are prepared once and read by several runs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wukong_jax.config_upgrade import upgrade_config
from wukong_jax.errors import UserError
from wukong_jax.files.whole_files import write_text_whole
from wukong_jax.strict_mapping import list_changes


def claim_made_folder(folder: Path, made_of: Mapping[str, Any]) -> None:
    """Records how a folder of rows is made, and refuses a folder that was made with other values.

    Args:
      folder: folder of the rows; the record is `<folder>.made_of.json` beside it.
      made_of: JSON values that determine the rows.

    Raises:
      UserError: the folder was made with other values.
    """
    note = folder.with_name(f"{folder.name}.made_of.json")
    made = json.loads(note.read_text(encoding="utf-8")) if note.exists() else made_of
    if "format" in made:  # a `config.data` of an earlier version
        upgrade_config({"data": made})
    for name, (old, new) in list_changes(made, made_of).items():
        raise UserError(f"{folder}: made with {name} = {old!r}, not {new!r}; give another --workdir")
    note.parent.mkdir(parents=True, exist_ok=True)
    write_text_whole(note, json.dumps(made_of, indent=1) + "\n")
