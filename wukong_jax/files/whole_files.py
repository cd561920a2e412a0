"""Writes files atomically: under a temporary name, flushed to disk, then renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal


@contextmanager
def open_whole(path: Path, mode: Literal["w", "wb"] = "w") -> Iterator[IO[Any]]:
    """Opens a file for writing that appears at `path` when the body ends without an error.

    Args:
      path: the file, in an existing folder.
      mode: "w" for UTF-8 text, "wb" for bytes.

    Yields:
      The open file, which is deleted if the body raises.

    Raises:
      OSError: the file cannot be written.
    """
    aside = whole_file_aside(path)
    try:
        with aside.open(mode, encoding=None if mode == "wb" else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def whole_file_aside(path: Path) -> Path:
    """Returns the temporary name under which a file is written."""
    return path.with_name(path.name + ".writing")


def write_text_whole(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    with open_whole(path) as file:
        file.write(text)


def write_bytes_whole(path: Path, content: bytes) -> None:
    """Writes a binary file atomically."""
    with open_whole(path, "wb") as file:
        file.write(content)
