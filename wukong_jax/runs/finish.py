"""Finishes a run: evaluates the best state on validation and test, and writes the summary and calibration curve."""

from collections.abc import Mapping
from typing import Any

import jax

from wukong_jax.runs.checkpoints import Checkpoints, restore_best
from wukong_jax.runs.evaluation import evaluate_state
from wukong_jax.runs.folder import RunFolder
from wukong_jax.runs.progress import RunProgress
from wukong_jax.runs.rows import RunData
from wukong_jax.runs.summary_notes import describe_high_entropy, describe_scored_step
from wukong_jax.sharding.team import find_team
from wukong_jax.training.loop import Listener
from wukong_jax.training.run import Run
from wukong_jax.training.size import describe_size
from wukong_jax.training.state import TrainState


def finish_run(
    run: Run,
    data: RunData,
    folder: RunFolder,
    checkpoints: Checkpoints,
    step: int,
    progress: RunProgress,
    references: Mapping[str, Any],
    listener: Listener,
) -> dict[str, Any]:
    """Evaluates the best state, writes `summary.json` and `calibration.json`, and notifies the listener.

    Returns:
      The summary.
    """
    find_team().mark("restoring the best state", busy=True)
    state = restore_best(run, checkpoints)
    summary = summarise(run, data, step, progress, state)
    for split in ("validation", "test"):
        if split not in data.splits:
            continue
        evaluation = evaluate_state(run, data, state, split)
        summary[split] = evaluation.metrics
        if split == "test":
            line = {"step": step, "split": split, "scored_step": summary["scored_step"], **evaluation.metrics}
            listener.on_evaluation(line, best=False)
            folder.write_json("calibration.json", evaluation.calibration)
    find_team().mark("writing the results", busy=True)
    summary["references"] = references
    for note in list_notes(summary, "validation" in data.splits):
        listener.on_message(note)
    folder.write_json("summary.json", summary)
    listener.on_end(summary)
    return summary


def list_notes(summary: Mapping[str, Any], validated: bool) -> list[str]:
    """Lists what the user should know about the end of a run, one line each."""
    notes = []
    if validated and summary["best_step"] is None:
        notes.append(describe_scored_step(None, summary["scored_step"]))
    high = describe_high_entropy(summary)
    return [*notes, high] if high else notes


def summarise(run: Run, data: RunData, step: int, progress: RunProgress, state: TrainState) -> dict[str, Any]:
    """Builds the summary without the metrics: what ran, how fast, and on which machine.

    In the summary, `step` is the last step taken, and `scored_step` the step of the evaluated state.
    """
    return {
        "name": run.config.name,
        "step": step,
        "scored_step": int(state.step),
        "best_step": progress.best_step,
        "stopped_because": progress.stopped_because,
        "examples_seen": progress.examples_seen,
        "examples_per_second": progress.timed_examples / max(progress.train_seconds, 1e-9),
        "wall_seconds": progress.wall_seconds,
        **describe_size(run, state.params),
        "objectives": [label.name for label in run.schema.labels],
        "domains": list(run.schema.domain_values),
        "training_rows": data.splits["train"].rows,
        "data_fingerprint": data.fingerprint,
        "backend": jax.default_backend(),
        "devices": run.mesh.size,
        "jax_version": jax.__version__,
    }
