"""Copies prepared rows from an object store: index, schema and vocabularies at once, record files when they are read.

A copy has a file `.store` with the URL that it was made from. A record file is fetched whole when its first block is
read, and each of its blocks is compared with the checksum in the index; so a fingerprint of the rows needs no reading.
Copies of `config.data.path` are kept in the user's cache folder, by URL and content, for later commands and for all
processes of a machine. Nothing limits their size: a run that opened rows notices when a file was replaced, and ends, so
a copy may only be deleted by who knows that no command reads it.
"""

import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from wukong_jax.errors import UserError
from wukong_jax.files.object_store import ObjectFolder

_SOURCE = ".store"
_RECORDS = ".array_record"
_NOTE = ".checked.json"  # about files of the machine that wrote them


def is_store_copy(directory: Path) -> bool:
    """Whether a folder of prepared rows is a copy from a store."""
    return (directory / _SOURCE).is_file()


def copy_rows(url: str, directory: Path) -> None:
    """Copies all but the record files of prepared rows.

    Args:
      url: folder of prepared rows.
      directory: folder to create; it appears when it is complete.

    Raises:
      UserError: the URL holds no prepared rows, or the store does not answer.
    """
    folder = ObjectFolder(url)
    _copy(folder, folder.list(), directory)


@functools.lru_cache
def keep_copy(url: str) -> Path:
    """Returns the kept copy of prepared rows, which is made if there is none of this content.

    Raises:
      UserError: the URL holds no prepared rows, or the store does not answer.
    """
    folder = ObjectFolder(url)
    names = folder.list()
    digest = hashlib.sha256(url.encode())
    for name in _list_first(names):
        digest.update(f"\n{name} {names[name]}\n".encode())
        if (name.endswith(".json") and name.startswith("blocks/")) or name == "schema.json":
            digest.update(folder.read(name) or b"")
    kept = find_cache() / "rows" / digest.hexdigest()[:24]
    if not kept.exists():
        _copy(folder, names, kept)
    return kept


def find_cache() -> Path:
    """Returns the folder of kept copies; it may be deleted whenever no command runs."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if os.path.isabs(cache) else Path.home() / ".cache") / "wukong_jax" / "stores"


def fetch_record_file(path: Path, target: Path) -> bool:
    """Fetches a record file of a copy; returns whether it is one of a copy.

    Args:
      path: `<copy>/blocks/<name>`.
      target: where to put it.

    Raises:
      UserError: the store has no such object or does not answer.
    """
    source = path.parent.parent / _SOURCE
    if not source.is_file():
        return False
    folder = ObjectFolder(source.read_text(encoding="utf-8").strip())
    folder.download({f"{path.parent.name}/{path.name}": target})
    return True


def _list_first(names: Mapping[str, int]) -> list[str]:
    return sorted(name for name in names if not name.endswith((_RECORDS, _NOTE)))


def _copy(folder: ObjectFolder, names: Mapping[str, int], directory: Path) -> None:
    if "schema.json" not in names:
        raise UserError(
            f"{folder.url}: holds no row blocks (no schema.json); run wukong-jax prepare_data --output={folder.url}"
        )
    directory.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f"{directory.name}.", dir=directory.parent))
    try:
        folder.download({name: aside / name for name in _list_first(names)})
        (aside / _SOURCE).write_text(folder.url + "\n", encoding="utf-8")
        try:
            aside.rename(directory)
        except OSError:
            if not directory.exists():  # else another process was first
                raise
    except OSError as error:
        raise UserError(f"{directory}: cannot write ({error.strerror}); free space or set XDG_CACHE_HOME") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
