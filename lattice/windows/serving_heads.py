"""Evaluation of heads against the labels of another objective, such as the longest attribution window's.

The metrics of a run compare each head with its own label. But in serving, a head trained on a short window must predict
the final label, which is another column.
"""

from collections.abc import Mapping

import numpy as np

from wukong_jax.errors import UserError
from wukong_jax.metrics.exact_metrics import compute_exact_metrics
from wukong_jax.runs.evaluation import predict_batches, read_in_order
from wukong_jax.runs.finish import build_predict
from wukong_jax.runs.open_run import OpenRun


def evaluate_heads(opened: OpenRun, split: str, truths: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Scores a split and evaluates heads against the labels they should predict.

    Args:
      opened: a trained run.
      split: name of the split.
      truths: head -> objective whose labels are the truth; both are names of label columns.

    Returns:
      Head -> metrics over the rows in which its truth is observed, for one objective (`compute_exact_metrics`).

    Raises:
      UserError: the split has no rows, or a name is not a label column.
    """
    run = opened.run
    names = [label.name for label in run.schema.labels]
    for name in {*truths, *truths.values()}:
        if name not in names:
            raise UserError(f"head {name!r}: no such objective; there are {', '.join(names)}")
    if split not in opened.data.splits:
        raise UserError(f"split {split!r}: has no rows to evaluate heads on")
    heads = [names.index(name) for name in truths]
    judges = [names.index(name) for name in truths.values()]
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("logits", "labels", "label_mask", "weight", "domain")}
    batches = read_in_order(opened.data.source(split), run.schema, run.config.training.evaluation_batch_size)
    for batch, logits in predict_batches(build_predict(run, opened.state), batches, run.mesh):
        parts["logits"].append(np.asarray(logits)[:, heads])
        parts["labels"].append(batch.labels[:, judges])
        parts["label_mask"].append(batch.label_mask[:, judges])
        parts["weight"].append(batch.weight)
        parts["domain"].append(batch.domain)
    rows = {name: np.concatenate(part) for name, part in parts.items()}
    judged = {}
    for place, head in enumerate(truths):
        own = {name: array[:, place : place + 1] if array.ndim > 1 else array for name, array in rows.items()}
        judged[head] = compute_exact_metrics(**own, objective_names=[head], domain_names=["all"])
    return judged
