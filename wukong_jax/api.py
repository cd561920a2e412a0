"""What `import wukong_jax` offers, for notebooks and scripts; see the package's `__all__`."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from wukong_jax.config import RunConfig, build_run_config
from wukong_jax.reports.run_report import ReportWriter
from wukong_jax.runs.train_run import train_run
from wukong_jax.training.loop import Listener


def print_to_stderr(text: str) -> None:
    """Prints a line where it does not mix with a result."""
    print(text, file=sys.stderr, flush=True)


def train(
    config: RunConfig | ConfigDict | Mapping[str, Any],
    workdir: str | Path,
    say: Callable[[str], None] = print_to_stderr,
    *,
    listeners: Sequence[Listener] = (),
) -> dict[str, Any]:
    """Trains a run, or goes on with the one its folder holds, and writes its report.

    Args:
      config: the run, as a config file or `load_config` gives it; keys may be changed before.
      workdir: the run's folder; made if it is not there.
      say: prints a line outside the progress bar.
      listeners: told of every log line, evaluation and the end, each a `wukong_jax.training.loop.Listener`.

    Returns:
      The summary, as in `summary.json`: what ran, and its `validation` and `test` metrics.

    Raises:
      UserError: a mistake in the config, the data or the folder, or a loss that is not finite.
      SystemExit: code 143 after SIGTERM, 130 after SIGINT; the state is saved, and the same call goes on from there.
    """
    checked = config if isinstance(config, RunConfig) else build_run_config(config)
    return train_run(checked, str(workdir), say, [*listeners, ReportWriter(say)])
