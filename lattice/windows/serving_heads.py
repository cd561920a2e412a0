"""Evaluation of heads against the labels of another objective, such as the longest attribution window's.

The metrics of a run compare each head with its own label. But in serving, a head trained on a short window must predict
the final label, which is another column.
"""

from collections.abc import Mapping

from wukong_jax.errors import UserError
from wukong_jax.metrics.exact_metrics import compute_exact_metrics
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
    names = [label.name for label in opened.schema.labels]
    for name in {*truths, *truths.values()}:
        if name not in names:
            raise UserError(f"head {name!r}: no such objective; there are {', '.join(names)}")
    if split not in opened.data.splits:
        raise UserError(f"split {split!r}: has no rows to evaluate heads on")
    rows = opened.score_split(split)
    judged = {}
    for head, truth in truths.items():
        place, judge = [names.index(head)], [names.index(truth)]
        judged[head] = compute_exact_metrics(
            logits=rows["logits"][:, place],
            labels=rows["labels"][:, judge],
            label_mask=rows["label_mask"][:, judge],
            weight=rows["weight"],
            domain=rows["domain"],
            objective_names=[head],
            domain_names=["all"],
        )
    return judged
