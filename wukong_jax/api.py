"""Provides `wukong_jax.train`, which trains a run and writes its report."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from wukong_jax.config import RunConfig, build_run_config
from wukong_jax.reports.run_report import ReportWriter
from wukong_jax.runs.console import print_to_stderr
from wukong_jax.runs.train_run import train_run
from wukong_jax.training.loop import Listener


def train(
    config: RunConfig | ConfigDict | Mapping[str, Any],
    workdir: str | Path,
    say: Callable[[str], None] = print_to_stderr,
    *,
    listeners: Sequence[Listener] = (),
) -> dict[str, Any]:
    """Trains a run, or resumes the one in its folder, and writes its report.

    Args:
      config: config of the run, for example from `load_config`.
      workdir: the run's folder; created if missing.
      say: prints a message outside the progress bar.
      listeners: objects notified of steps, log lines, evaluations and the end of the run.

    Returns:
      The summary, as in `summary.json`: what ran, and its `validation` and `test` metrics.

    Raises:
      UserError: a mistake in the config, the data or the folder, or a loss that is not finite.
      SystemExit: with code 143 after SIGTERM and 130 after SIGINT. The state has been saved; the same call resumes.
    """
    checked = config if isinstance(config, RunConfig) else build_run_config(config)
    return train_run(checked, str(workdir), say, [*listeners, ReportWriter(say)])
