"""Reads and writes folders of an object store: gs://, s3:// and whatever else fsspec knows, each by its URL.

A store has no rename, no append, no folders and no lock, so what files get by those is got otherwise:

- A whole file: an object appears with its last byte, or not at all. A file that grows is put again as a whole.
- A whole folder (`publish_folder`): one object, the marker, makes it valid. It is deleted first and put last, so a
  folder with a marker holds all of one version. A reader that listed it before may find objects gone, and then fails.
- One writer: `store_lock`.

Nothing is read in place: whoever needs a file on disk, to map it into memory or for a library, takes a copy.
"""

import contextlib
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wukong_jax.errors import UserError
from wukong_jax.messages import describe_error

_URL = re.compile(r"[a-z][a-z0-9+.-]+://")
_MANGLED = re.compile(r"(gs|s3|gcs|az|abfs|memory|file):/[^/]")  # what pathlib makes of a URL
_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs"}


def is_store_url(path: object) -> bool:
    """Whether a path is the URL of a store, such as gs://bucket/runs/mine, and not a local path.

    Raises:
      UserError: it is a URL that went through `pathlib`, which drops a slash of it.
    """
    text = str(path)
    if _MANGLED.match(text):
        raise UserError(f"{text!r}: is a URL that lost a slash; give it as a text with //, not as a pathlib.Path")
    return bool(_URL.match(text))


def refuse_store(name: str, path: object, fix: str) -> None:
    """Refuses a URL where only a local path works.

    Args:
      name: the flag or key.
      path: its value.
      fix: what to do instead.

    Raises:
      UserError: the path is the URL of a store.
    """
    if is_store_url(path):
        raise UserError(f"{name} = {str(path)!r}: cannot be on an object store; {fix}")


def name_on_store(path: str) -> bool:
    """Whether a path is one of Google's stores, to which Orbax and tensorstore write themselves."""
    return path.startswith("gs://")


class ObjectFolder:
    """The objects of a store below one URL, by their names relative to it; safe to use from several threads."""

    def __init__(self, url: str) -> None:
        """Connects to the store.

        Args:
          url: such as gs://bucket/runs/mine.

        Raises:
          UserError: the package for this kind of store is not installed, or its settings are wrong.
        """
        self.url = url.rstrip("/")
        scheme = url.partition("://")[0]
        try:
            from fsspec.config import conf
            from fsspec.core import url_to_fs

            for name in ("gs", "gcs", "s3"):  # also for the libraries that open the same store by fsspec
                conf.setdefault(name, {}).setdefault("use_listings_cache", False)
            with self._translating("cannot open"):
                fs, root = url_to_fs(self.url)
            self._fs: Any = fs
            self._root = str(root).rstrip("/")
        except ImportError as error:
            package = _PACKAGES.get(scheme, f"fsspec's package for {scheme}://")
            raise UserError(
                f"{url}: needs {package} ({describe_error(error)}); run pip install 'wukong-jax[stores]'"
            ) from None

    def __truediv__(self, name: str) -> "ObjectFolder":
        """Returns the folder below this one."""
        return ObjectFolder(f"{self.url}/{name}")

    def read(self, name: str) -> bytes | None:
        """Returns an object's bytes; None if there is none.

        Raises:
          UserError: the store does not answer.
        """
        with self._translating("cannot read"):
            try:
                return bytes(self._fs.cat_file(self._path(name)))
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Puts an object; it replaces one of the same name in one step.

        Raises:
          UserError: the store refuses it or does not answer.
        """
        with self._translating("cannot write"):
            self._make_parents([name])
            self._fs.pipe_file(self._path(name), content)

    def create(self, name: str, content: bytes) -> bool:
        """Puts an object unless there is one of this name, in one step where the store can; returns whether it did.

        Raises:
          UserError: the store refuses it or does not answer.
        """
        with self._translating("cannot write"):
            self._make_parents([name])
            try:
                if self._fs.exists(self._path(name)):  # not all stores, nor all packages, look at the condition below
                    return False
                self._fs.pipe_file(self._path(name), content, mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                if self._fs.exists(self._path(name)) and re.search("412|precondition", str(error), re.IGNORECASE):
                    return False
                raise
            return True

    def list(self) -> dict[str, int]:
        """Returns the sizes of all objects below the folder, by name.

        Raises:
          UserError: the store does not answer.
        """
        with self._translating("cannot read"):
            try:
                found: Mapping[str, Any] = self._fs.find(self._root, detail=True)
            except FileNotFoundError:
                return {}
            start = len(self._root) + 1
            return {path[start:]: int(info["size"] or 0) for path, info in found.items() if path[start:]}

    def download(self, names: Mapping[str, Path]) -> None:
        """Copies objects to files, which replace earlier ones when they are complete.

        Args:
          names: the file of each object; folders are made.

        Raises:
          UserError: an object is gone, the store does not answer, or a file cannot be written.
        """
        if not names:
            return
        asides = [path.with_name(f"{path.name}.{secrets.token_hex(4)}.fetching") for path in names.values()]
        try:
            with self._translating("cannot copy from here"):
                for path in names.values():
                    path.parent.mkdir(parents=True, exist_ok=True)
                self._fs.get([self._path(name) for name in names], [str(aside) for aside in asides])
                for aside, path in zip(asides, names.values(), strict=True):
                    aside.replace(path)
        finally:
            for aside in asides:
                aside.unlink(missing_ok=True)

    def upload(self, files: Mapping[str, Path]) -> None:
        """Copies files to objects of the given names.

        Raises:
          UserError: the store refuses one or does not answer.
        """
        if not files:
            return
        with self._translating("cannot write"):
            self._make_parents(files)
            self._fs.put([str(path) for path in files.values()], [self._path(name) for name in files])

    def remove(self, names: Sequence[str]) -> None:
        """Deletes objects; those that are gone already are left out.

        Raises:
          UserError: the store refuses it or does not answer.
        """
        paths = [self._path(name) for name in names]
        with self._translating("cannot delete"):
            try:
                if paths and not any(re.search(r"[*?\[]", path) for path in paths):  # `rm` takes these for patterns
                    self._fs.rm(paths)
                    return
            except FileNotFoundError:
                pass
            for path in paths:
                with contextlib.suppress(FileNotFoundError):
                    self._fs.rm_file(path)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _make_parents(self, names: Any) -> None:
        """Makes folders where the store is one of files; elsewhere a folder is a part of a name."""
        if self.url.startswith(("file://", "local://")):
            for name in names:
                Path(self._path(name)).parent.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def _translating(self, what: str) -> Iterator[None]:
        """Converts whatever a store's package raises to a UserError of one line."""
        try:
            yield
        except (UserError, ImportError):
            raise
        except Exception as error:
            raise UserError(
                f"{self.url}: {what} ({describe_error(error)}); check the bucket's name, your credentials and rights"
            ) from error


def publish_folder(local: Path, folder: ObjectFolder, marker: str, mark: bytes | None = None) -> None:
    """Puts all files of a local folder, and deletes all other objects of the target; the marker is put last.

    Args:
      local: the folder.
      folder: the target.
      marker: name of the object that makes the target valid.
      mark: its content; None: it is a file of the folder.

    Raises:
      UserError: the store refuses something or does not answer; then the target has no marker.
    """
    files = {path.relative_to(local).as_posix(): path for path in sorted(local.rglob("*")) if path.is_file()}
    before = folder.list()
    if marker in before:
        folder.remove([marker])
    last = files.pop(marker, None)
    folder.upload(files)
    folder.remove([name for name in before if name not in files and name != marker])
    if mark is not None:
        folder.write(marker, mark)
    elif last is not None:
        folder.upload({marker: last})
