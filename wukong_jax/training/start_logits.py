"""Start logits: constants added to a network's logits, so that an untrained network predicts the training rows' rates.

A network's own logits start near 0, a probability of 1/2. At a click rate of 1 %, the first steps would only lower the
logits, with gradients that are the same for every row. The start logit of a domain and objective is the log odds of its
training labels. It is no parameter: it has no gradient, no weight decay, and no part in the counted cost. It is kept
with the model's running statistics, and so is in every checkpoint.
"""

import jax
import jax.numpy as jnp
import numpy as np

from wukong_jax.models.outputs import Outputs

START_LOGITS = "start_logits"  # name among the statistics
_PSEUDO_WEIGHT = 100.0  # rows of weight 1 at the objective's rate that are added to each domain
_LARGEST = 20.0  # limit of the magnitude of a start logit


def compute_start_logits(label_sums: np.ndarray) -> np.ndarray:
    """Computes the start logits from the training labels.

    The rate of a domain is that of its own labels and of 100 labels at the objective's rate over all domains, so that
    a domain with few labels, or none, is near the objective's rate, and none is at 0 or 1. If an objective has one
    class only, half a label of each class is added to it.

    Args:
      label_sums: [G, O, 2], weight of the positive and of all observed labels.

    Returns:
      [G, O] float32, finite; 0 for an objective without any observed label.
    """
    positive, observed = np.moveaxis(np.asarray(label_sums, np.float64), -1, 0)
    all_positive, all_observed = positive.sum(axis=0), observed.sum(axis=0)
    one_class = (all_positive <= 0) | (all_positive >= all_observed)
    overall = (all_positive + 0.5 * one_class) / np.where(one_class, all_observed + 1.0, all_observed)
    rate = (positive + _PSEUDO_WEIGHT * overall) / (observed + _PSEUDO_WEIGHT)
    logits = np.clip(np.log(rate) - np.log1p(-rate), -_LARGEST, _LARGEST)
    return np.where(all_observed > 0, logits, 0.0).astype(np.float32)


def add_start_logits(outputs: Outputs, start_logits: jax.Array, domain: jax.Array) -> Outputs:
    """Adds each row's start logits to the logits, and to auxiliary outputs that are logits of the same objectives.

    Args:
      outputs: the model's outputs; logits [B, O] float32.
      start_logits: [G, O] float32.
      domain: [B] int32 in [0, G).

    Returns:
      The outputs with all logits moved.
    """
    added = jnp.take(start_logits, domain, axis=0, mode="clip")
    aux = {
        name: value + added if name.endswith("logits") and value.shape == added.shape else value
        for name, value in outputs.aux.items()
    }
    return Outputs(outputs.logits + added, aux)
