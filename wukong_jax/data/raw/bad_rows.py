"""Handles rows of raw files that cannot be read: stops at the first one, or skips and counts them."""

import threading
from pathlib import Path
from typing import Literal

from wukong_jax.errors import UserError

BadRowPolicy = Literal["stop", "skip"]

_MAX_EXAMPLES = 10


class BadRows:
    """Applies a policy to bad rows and counts them."""

    def __init__(
        self,
        policy: BadRowPolicy = "stop",
        fix: str = "fix the row or pass --on_bad_row=skip (config: data.on_bad_row)",
    ) -> None:
        """Creates a counter.

        Args:
          policy: "stop" raises at the first bad row; "skip" counts bad rows and keeps a few as examples.
          fix: advice at the end of the error message.

        Raises:
          UserError: the policy is unknown.
        """
        if policy not in ("stop", "skip"):
            raise UserError(f"on_bad_row = {policy!r}: not one of 'stop', 'skip'")
        self.policy = policy
        self._fix = fix
        self.count = 0
        self.examples: list[str] = []
        self._lock = threading.Lock()

    def refuse(self, file: Path, line: int, problem: str) -> None:
        """Counts a bad row or raises, depending on the policy.

        Args:
          file: the raw file.
          line: the row's line number, from 1 (Parquet: row number, from 1).
          problem: description such as "column 'label' = 'x': not a number".

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

    def start_again(self) -> "BadRows":
        """Returns a counter of zero rows with the same policy."""
        return BadRows(self.policy, self._fix)

    def take(self) -> "BadRows":
        """Returns what was counted so far, and counts from zero again."""
        with self._lock:
            taken = self.start_again()
            taken.count, taken.examples = self.count, self.examples
            self.count, self.examples = 0, []
        return taken

    def add(self, other: "BadRows") -> None:
        """Adds what another counter counted."""
        with self._lock:
            self.count += other.count
            self.examples += other.examples[: _MAX_EXAMPLES - len(self.examples)]
