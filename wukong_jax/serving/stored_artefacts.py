"""Puts artefacts on an object store, and takes copies of them, whose tables can be mapped into memory.

The manifest is deleted first and put last, and lists size and digest of every file, so that a copy is never a mixture
of two artefacts: `load_scorer` compares each file with it.
"""

import hashlib
import shutil
import tempfile
from pathlib import Path

from wukong_jax.data.blocks.store_copy import find_cache
from wukong_jax.errors import UserError
from wukong_jax.files.object_store import ObjectFolder
from wukong_jax.serving.artefact import MANIFEST


def check_stored_output(url: str) -> None:
    """Refuses a URL that holds something else than an artefact, so that nothing else is ever replaced.

    Raises:
      UserError: it does, or the store does not answer.
    """
    found = ObjectFolder(url).list()
    if found and MANIFEST not in found:
        raise UserError(f"--output = {url}: holds objects that are no artefact; give another URL, or delete them")


def copy_artefact(url: str) -> Path:
    """Returns a kept copy of an artefact in the user's cache folder, which is made if there is none of this content.

    Raises:
      UserError: the URL holds no artefact, the store does not answer, or there is no space.
    """
    folder = ObjectFolder(url)
    manifest = folder.read(MANIFEST)
    if manifest is None:
        raise UserError(f"{url}: holds no {MANIFEST}; give a URL that `wukong-jax export` wrote")
    kept = find_cache() / "artefacts" / hashlib.sha256(url.encode() + manifest).hexdigest()[:24]
    if kept.exists():
        return kept
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f"{kept.name}.", dir=kept.parent))
        try:
            folder.download({name: aside / name for name in folder.list() if name != MANIFEST})
            (aside / MANIFEST).write_bytes(manifest)
            if folder.read(MANIFEST) != manifest:
                raise UserError(f"{url}: was replaced while it was copied; load it again")
            if not kept.exists():
                aside.rename(kept)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{kept}: cannot write ({error.strerror}); free space or set XDG_CACHE_HOME") from None
    return kept
