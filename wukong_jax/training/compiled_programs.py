"""Keeps compiled programs on disk: for a command's next start, or while several similar runs are trained."""

import contextlib
import hashlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from wukong_jax.errors import UserError

NONE = "none"
_KEPT_BYTES = 2 << 30
_CPU_INFO = Path("/proc/cpuinfo")


def keep_programs_between_starts(folder: str = "") -> None:
    """Keeps the programs that this process compiles, so that a later start of the same run loads them.

    The oldest programs are deleted once all take more than 2 GiB. A folder that cannot be written is not used.

    Args:
      folder: the folder; "none" keeps nothing; "" leaves it to JAX if JAX_COMPILATION_CACHE_DIR is set, and else
        chooses a folder in the user's cache folder, $XDG_CACHE_HOME or ~/.cache.

    Raises:
      UserError: a folder was given and cannot be created.
    """
    if folder == NONE:
        _set_options({"jax_enable_compilation_cache": False})
        return
    if not folder and "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    chosen = Path(folder) if folder else _default_folder()
    try:
        chosen.mkdir(mode=0o700, parents=True, exist_ok=True)
        _delete_oldest(chosen, _KEPT_BYTES)
    except OSError as error:
        if folder:
            raise UserError(f"--compiled_programs = {folder!r}: {error.strerror}; give a folder, or none") from None
        return
    if os.access(chosen, os.W_OK):
        _set_options(_options(chosen))


@contextlib.contextmanager
def keep_programs_in(folder: Path) -> Iterator[None]:
    """Keeps compiled programs in a folder inside the context; runs that differ in seed or learning rate share most.

    A small run spends nearly all its time compiling: 5.8 CPU seconds for the first of its kind, 1.4 for the last.
    """
    options = _options(folder)
    before = {name: getattr(jax.config, name) for name in options}
    try:
        _set_options(options)
        yield
    finally:
        _set_options(before)


def _options(folder: Path) -> dict[str, Any]:
    return {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.05,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }


def _set_options(options: dict[str, Any]) -> None:
    for name, value in options.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # JAX would otherwise keep the folder opened first


def _default_folder() -> Path:
    """Returns a folder for this kind of machine: homes are shared, and code for another CPU may not run on this one."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(cache) if os.path.isabs(cache) else Path.home() / ".cache"
    flags = b""
    if _CPU_INFO.exists():
        lines = _CPU_INFO.read_bytes().splitlines()
        flags = next((line for line in lines if line.startswith((b"flags", b"Features"))), b"")
    digest = hashlib.blake2b(flags, digest_size=6).hexdigest()
    return root / "wukong_jax" / f"compiled_programs-{platform.machine()}-{digest}"


def _delete_oldest(folder: Path, limit: int) -> None:
    """Deletes the oldest files of a folder until all take at most `limit` bytes; another process may do the same."""
    files = []
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):
            status = entry.stat(follow_symlinks=False)
            files.append((status.st_mtime_ns, status.st_size, entry.path))
    excess = sum(size for _, size, _ in files) - limit
    for _, size, path in sorted(files):
        if excess <= 0:
            return
        Path(path).unlink(missing_ok=True)
        excess -= size
