"""Rows of raw files that cannot be read: stop at the first with one line, or skip, count and report."""

import threading
from pathlib import Path
from typing import Literal

from wukong_jax.errors import UserError

BadRowPolicy = Literal["stop", "skip"]

_MAX_EXAMPLES = 10


class BadRows:
    """What happens to bad rows, and how many there were."""

    def __init__(
        self,
        policy: BadRowPolicy = "stop",
        fix: str = "fix the row or pass --on_bad_row=skip (config: data.on_bad_row)",
    ) -> None:
        """Starts at zero.

        Args:
          policy: "stop" raises at the first bad row, "skip" counts it and keeps a few as examples.
          fix: what the error tells the user to do.

        Raises:
          UserError: an unknown policy.
        """
        if policy not in ("stop", "skip"):
            raise UserError(f"on_bad_row = {policy!r}: not one of 'stop', 'skip'")
        self.policy = policy
        self._fix = fix
        self.count = 0
        self.examples: list[str] = []
        self._lock = threading.Lock()

    def refuse(self, file: Path, line: int, problem: str) -> None:
        """Takes note of one bad row.

        Args:
          file: the raw file.
          line: its line there, from 1 (Parquet: its row, from 1).
          problem: what is wrong, as "column 'label' = 'x': not a number".

        Raises:
          UserError: the policy is "stop".
        """
        example = f"{file}, line {line}, {problem}"
        if self.policy == "stop":
            raise UserError(f"{example}; {self._fix}")
        with self._lock:
            self.count += 1
            if len(self.examples) < _MAX_EXAMPLES:
                self.examples.append(example)
