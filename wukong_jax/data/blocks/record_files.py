"""Writes records to numbered ArrayRecord files, compressing on another thread while the next records are made."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordWriter

from wukong_jax.errors import UserError
from wukong_jax.files.checksum import checksum_bytes
from wukong_jax.messages import first_line

_WAITING_RECORDS = 2


class RecordFiles:
    """The record files of one split while they are written; records keep their order."""

    def __init__(self, folder: Path, name: str, options: str, records_per_file: int) -> None:
        """Creates an empty list of files; a file is opened with its first record.

        Args:
          folder: an existing folder.
          name: start of the files' names.
          options: ArrayRecord's options.
          records_per_file: maximum records of a file.
        """
        self._folder, self._name, self._options = folder, name, options
        self._records_per_file = records_per_file
        self._thread: ThreadPoolExecutor | None = None
        self._waiting: deque[Future[None]] = deque()
        self._writer: ArrayRecordWriter | None = None
        self.files: list[str] = []  # these three are complete after `close`
        self.counts: list[int] = []  # records of each file
        self.digests: list[str] = []  # checksum of each record

    def write(self, record: bytes) -> None:
        """Adds a record; waits until few records are left to be written.

        Raises:
          UserError: an earlier record cannot be written, for example because the disk is full.
        """
        self._thread = self._thread or ThreadPoolExecutor(1)
        while len(self._waiting) >= _WAITING_RECORDS:
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(self._write, record))

    def close(self) -> None:
        """Waits until all is written, and closes the last file.

        Raises:
          UserError: a record cannot be written.
        """
        while self._waiting:
            self._waiting.popleft().result()
        self._close_file()
        self.abandon()

    def abandon(self) -> None:
        """Ends the thread and closes the last file, leaving out what is not written; never raises."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
            self._thread = None
        self._waiting.clear()
        if self._writer is not None:
            with suppress(OSError, RuntimeError, ValueError):  # another error is the one to report
                self._writer.close()
            self._writer = None

    def _write(self, record: bytes) -> None:
        if self._writer is not None and self.counts[-1] == self._records_per_file:
            self._close_file()
        if self._writer is None:
            self.files.append(f"{self._name}-{len(self.files):05d}.array_record")
            self.counts.append(0)
        path = self._folder / self.files[-1]
        with writing(path):
            self._writer = self._writer or ArrayRecordWriter(str(path), self._options)
            self._writer.write(record)
        self.counts[-1] += 1
        self.digests.append(checksum_bytes(record))

    def _close_file(self) -> None:
        if self._writer is not None:
            with writing(self._folder / self.files[-1]):
                self._writer.close()
            self._writer = None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Converts errors of the system or ArrayRecord during writing to one line.

    Raises:
      UserError: the file cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot write ({error.strerror}); free space or choose another output") from None
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path}: cannot write ({first_line(error)}); free space or choose another output") from None
