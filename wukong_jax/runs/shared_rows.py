"""Guards rows that are prepared once and read by several runs."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from wukong_jax.config_upgrade import upgrade_config
from wukong_jax.errors import BusyError, UserError
from wukong_jax.files.whole_files import write_text_whole
from wukong_jax.files.whole_folder import lock_folder
from wukong_jax.runs.rows import RunData
from wukong_jax.strict_mapping import list_changes

NO_ROWS: Mapping[str, RunData] = MappingProxyType({})


def claim_made_folder(
    folder: Path, made_of: Mapping[str, Any], rows: Mapping[str, RunData] = NO_ROWS, read_from: Path | None = None
) -> None:
    """Records how a folder of rows is made, and refuses a folder that was made with other values.

    Args:
      folder: folder of the rows; the record is `<folder>.made_of.json` beside it.
      made_of: JSON values that determine the rows.
      rows: prepared rows that determine the rows, too; their fingerprints are recorded.
      read_from: folder that the rows are read from; None: `folder`. As long as it does not exist, nothing was made with
        the recorded values, and they are replaced.

    Raises:
      UserError: the folder was made with other values, or from other rows.
    """
    made_of = {**made_of, **{name: data.fingerprint for name, data in rows.items()}}
    note = folder.with_name(f"{folder.name}.made_of.json")
    made = json.loads(note.read_text(encoding="utf-8")) if note.exists() and (read_from or folder).exists() else made_of
    if "format" in made:  # a `config.data` of an earlier version
        upgrade_config({"data": made})
    # A fingerprint that an earlier version recorded is another text for the same rows.
    made |= {name: data.fingerprint for name, data in rows.items() if data.matches(str(made.get(name)))}
    for name, (old, new) in list_changes(made, made_of).items():
        raise UserError(f"{folder}: made with {name} = {old!r}, not {new!r}; give another --workdir")
    note.parent.mkdir(parents=True, exist_ok=True)
    write_text_whole(note, json.dumps(made_of, indent=1) + "\n")


def write_once(folder: Path, write: Callable[[], Any]) -> None:
    """Writes a folder of rows unless it exists; a second process waits for the first one and uses its rows.

    Args:
      folder: the folder.
      write: writes the whole folder, under its lock (`write_whole_folder`).
    """
    while not folder.exists():
        try:
            write()
        except BusyError:
            with lock_folder(folder, wait=True):
                pass
        except UserError:
            if not folder.exists():  # else another process has just written it
                raise
