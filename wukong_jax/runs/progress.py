"""Defines the host's part of a run's state (data position, best evaluation, sums), saved in every checkpoint."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from wukong_jax.config import TrainingConfig, describe_changeable_keys
from wukong_jax.data.blocks.loader import Position
from wukong_jax.strict_mapping import build_dataclass, to_mapping
from wukong_jax.training.loop import ALL_DONE


@dataclasses.dataclass(frozen=True)
class RunProgress:
    """The data position, the best evaluation so far, times, and the sums of an unfinished log window."""

    epoch: int = 0
    rows_consumed: int = 0  # of the epoch, over all processes
    examples_seen: int = 0  # rows of weight above 0 trained on, counting repetitions
    best_value: float | None = None  # best value of the early-stop metric
    best_step: int | None = None
    stalled_evaluations: int = 0  # since the best one
    learning_rate_scale: float = 1.0  # lowered by stalled evaluations
    window_loss_sum: float = 0.0  # since the last log line
    window_weight_sum: float = 0.0
    train_seconds: float = 0.0  # in steps, compilation and evaluation excluded
    timed_examples: int = 0  # trained on during `train_seconds`
    wall_seconds: float = 0.0  # over all processes that continued the run
    stopped_because: str = ""  # empty until the run stops
    data_fingerprint: str = ""  # fingerprint of the training data, see `RunData.fingerprint`

    def position(self, seed: int) -> Position:
        """Returns the loader position to resume from."""
        return Position(epoch=self.epoch, seed=seed, rows_consumed=self.rows_consumed)

    def replace(self, **changes: Any) -> "RunProgress":
        """Returns a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Returns a plain dict for a checkpoint."""
        return to_mapping(self)

    @staticmethod
    def from_json(mapping: Mapping[str, Any]) -> "RunProgress":
        """Builds the progress from the result of `to_json`."""
        return build_dataclass(RunProgress, mapping, "checkpoint progress")


def record_evaluation(
    progress: RunProgress, config: TrainingConfig, step: int, metrics: Mapping[str, Any]
) -> tuple[RunProgress, bool]:
    """Updates the best value, the stall count, the learning rate and early stopping after an evaluation.

    Returns:
      (new progress, whether this evaluation is the best so far). NaN, a metric that is not defined on the rows, changes
      nothing; an infinite value is never the best.
    """
    value = metrics[config.early_stop_metric]
    if math.isnan(value):
        return progress, False
    sign = 1.0 if config.early_stop_metric == "auc" else -1.0
    better = progress.best_value is None or sign * (value - progress.best_value) > config.minimum_improvement
    if math.isfinite(value) and better:
        return progress.replace(best_value=float(value), best_step=step, stalled_evaluations=0), True
    stalled = progress.stalled_evaluations + 1
    stop = config.early_stop_patience and stalled >= config.early_stop_patience
    reason = f"no better {config.early_stop_metric} in {stalled} evaluations" if stop else progress.stopped_because
    scale = progress.learning_rate_scale * config.plateau_factor
    return progress.replace(stalled_evaluations=stalled, learning_rate_scale=scale, stopped_because=reason), False


def go_on(progress: RunProgress, config: TrainingConfig, step: int, total_steps: int) -> tuple[RunProgress, str]:
    """Decides whether a run that is started again takes more steps.

    A run that had taken all steps goes on if the config now has more of them; one that stopped early, if its patience
    is now larger than the number of stalled evaluations, or 0. It then goes on as if it had never stopped. More steps
    alone do not cancel an early stop, because a run with these steps from the start would have stopped there, too.

    Args:
      progress: progress of the checkpoint.
      config: settings of the training loop, possibly changed since.
      step: steps taken so far.
      total_steps: steps of the whole run by the config.

    Returns:
      (progress, without `stopped_because` if the run goes on; message for the user).
    """
    because, patience = progress.stopped_because, config.early_stop_patience
    onwards = f"going on from step {step:,} of {total_steps:,}"
    if because and because != ALL_DONE:
        if patience and progress.stalled_evaluations >= patience:
            return progress, (
                f"the run stopped early at step {step:,} ({because}) and takes no more steps; to go on, raise "
                f"config.training.early_stop_patience = {patience} (0: never stop early); {describe_changeable_keys()}"
            )
        onwards = f"the run had stopped early at step {step:,} ({because}); with config.training.early_stop_patience = "
        onwards += f"{patience}, it is going on to step {total_steps:,}"
    if step >= total_steps:
        return progress.replace(stopped_because=ALL_DONE), (
            f"all {total_steps:,} steps are done, so the run takes no more; to go on, raise config.training.steps or "
            f"config.training.epochs; {describe_changeable_keys()}"
        )
    return progress.replace(stopped_because=""), onwards
