"""How well a head serves: its predictions against the labels of another objective, such as the longest window's.

A run's own metrics hold each head against its own label. What a head of a short window is worth in serving is how it
foretells the final label, which is another column.
"""

from collections.abc import Mapping

from wukong_jax.errors import UserError
from wukong_jax.metrics.exact_metrics import compute_exact_metrics
from wukong_jax.runs.open_run import OpenRun


def evaluate_heads(opened: OpenRun, split: str, truths: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Scores a split and judges heads by the labels they are to foretell.

    Args:
      opened: a trained run.
      split: of its rows.
      truths: head -> objective whose labels judge it, both names of label columns.

    Returns:
      Head -> metrics over the rows that have its truth, as of one objective (`compute_exact_metrics`).

    Raises:
      UserError: the split has no rows, or a name is no label column.
    """
    names = [label.name for label in opened.schema.labels]
    for name in {*truths, *truths.values()}:
        if name not in names:
            raise UserError(f"head {name!r}: no such objective; there are {', '.join(names)}")
    if split not in opened.data.splits:
        raise UserError(f"split {split!r}: has no rows to judge heads on")
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
