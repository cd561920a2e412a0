"""The end of a run: the best state scored on validation and test, the summary, the calibration curve, the report."""

import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from wukong_jax.config import RunConfig
from wukong_jax.errors import UserError
from wukong_jax.models.cost import count_cost
from wukong_jax.runs.checkpoints import Checkpoints
from wukong_jax.runs.checkpoints import Which
from wukong_jax.runs.console import TrainingConsole
from wukong_jax.runs.evaluation import Evaluation
from wukong_jax.runs.evaluation import Predict
from wukong_jax.runs.evaluation import evaluate_split
from wukong_jax.training.run import Run
from wukong_jax.runs.rows import RunData
from wukong_jax.runs.folder import RunFolder
from wukong_jax.runs.progress import RunProgress
from wukong_jax.training.state import TrainState

FLOPS_PER_TRAINED_MAC = 6  # forward, and the gradients of both factors: 2 each
REFERENCE_METRICS = ("auc", "log_loss", "normalized_entropy")


def restore_best(run: Run, checkpoints: Checkpoints) -> TrainState:
    """The state that a run is judged by: of its best evaluation, or the latest where there was none."""
    which: Which = "best" if checkpoints.latest_step("best") is not None else "latest"
    state, _ = checkpoints.restore(run.abstract_state(), which, run.state_sharding)
    return state


def build_predict(run: Run, state: TrainState) -> Predict:
    """The function from a batch on devices to logits [B, O], for one state."""
    return lambda batch: run.predict_step(state.params, state.statistics, state.tables, batch)


def evaluate_state(run: Run, data: RunData, predict: Predict, split: str) -> Evaluation:
    """Scores one split.

    Raises:
      UserError: the data has no such split.
    """
    if split not in data.splits:
        raise UserError(f"--split = {split!r}: the data has only {', '.join(data.splits)}; choose one of them")
    config = run.config.training
    source, size = data.source(split), config.evaluation_batch_size
    return evaluate_split(predict, source, run.schema, size, run.mesh, config.exact_auc_rows)


def finish_run(
    run: Run,
    data: RunData,
    folder: RunFolder,
    checkpoints: Checkpoints,
    step: int,
    progress: RunProgress,
    references: Mapping[str, Any],
    console: TrainingConsole,
) -> dict[str, Any]:
    """Scores the best state and writes `summary.json` and `calibration.json`.

    Returns:
      The summary.
    """
    state = restore_best(run, checkpoints)
    predict = build_predict(run, state)
    summary = summarise(run, data, step, progress, state)
    for split in ("validation", "test"):
        if split not in data.splits:
            continue
        evaluation = evaluate_state(run, data, predict, split)
        summary[split] = evaluation.metrics
        if split == "test":
            line = {"step": step, "split": split, **evaluation.metrics}
            folder.append_metrics(line)
            console.show_evaluation(line, best=False)
            folder.write_json("calibration.json", evaluation.calibration)
    summary["references"] = references
    folder.write_json("summary.json", summary)
    return summary


def summarise(run: Run, data: RunData, step: int, progress: RunProgress, state: TrainState) -> dict[str, Any]:
    """What ran and how fast: all of the summary but the metrics.

    `step` is the last one taken, `scored_step` the one of the state that the metrics speak of.
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
        "training_rows": data.splits["train"].rows,
        "data_fingerprint": data.fingerprint,
        "backend": jax.default_backend(),
        "devices": run.mesh.size,
        "jax_version": jax.__version__,
    }


def describe_size(run: Run, params: Any) -> dict[str, Any]:
    """Parameters and training FLOPs of a run; `params` are its dense ones, arrays or their shapes."""
    return {
        "dense_parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)),
        "embedding_parameters": run.layout.embedding_parameters,
        **count_flops(run),
    }


def count_flops(run: Run) -> dict[str, float]:
    """FLOPs per example of the dense model and of the projection of narrow embeddings, in training and in serving."""
    layout = run.layout
    widths = [layout.narrow_width, *layout.narrow_hidden, layout.narrow_tokens * layout.width]
    projection = sum(a * b for a, b in itertools.pairwise(widths)) if layout.narrow_tokens else 0
    cost = count_cost(run.network.model, run.shape)
    return {
        "train_flops_per_example": cost.train_flops_per_example + FLOPS_PER_TRAINED_MAC * projection,
        "serve_flops_per_example": cost.serve_flops_per_example + 2 * projection,
    }


def load_references(config: RunConfig, data: RunData) -> dict[str, Any]:
    """Test metrics to hold a run against: the generator's Bayes values and the reference run's.

    Raises:
      UserError: the reference run has no summary.
    """
    references = {}
    bayes = data.report.get("bayes", {}).get("test")
    if bayes:
        references["bayes"] = {name: bayes[name] for name in REFERENCE_METRICS}
    if config.reference_run:
        path = Path(config.reference_run) / "summary.json"
        if not path.exists():
            raise UserError(
                f"config.reference_run = {config.reference_run!r}: holds no summary.json; finish that run first"
            )
        other = json.loads(path.read_text())
        if "test" not in other or other.get("data_fingerprint") != data.fingerprint:
            raise UserError(
                f"config.reference_run = {config.reference_run!r}: was not tested on this run's rows; "
                "give a run on the same data"
            )
        name = other["name"] if other["name"] != config.name else f"{other['name']} (reference)"
        references[name] = {metric: other["test"][metric] for metric in REFERENCE_METRICS}
    return references
