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
    class only, every domain gets the objective's rate with half a label of each class added.

    Args:
      label_sums: [G, O, 2], weight of the positive and of all observed labels.

    Returns:
      [G, O] float32, finite; 0 for an objective without any observed label.
    """
    positive, observed = np.moveaxis(np.asarray(label_sums, np.float64), -1, 0)
    negative = observed - positive
    all_positive, all_negative = positive.sum(axis=0), negative.sum(axis=0)
    one_class = (all_positive <= 0) | (all_negative <= 0)
    half = 0.5 * one_class
    pseudo = _PSEUDO_WEIGHT / (all_positive + all_negative + 2 * half)
    domain_logits = np.log(positive + pseudo * (all_positive + half)) - np.log(
        negative + pseudo * (all_negative + half)
    )
    overall = np.log(all_positive + half) - np.log(all_negative + half)
    logits = np.where(one_class, overall, domain_logits)  # without any label: log(1/2) - log(1/2) = 0
    return np.clip(logits, -_LARGEST, _LARGEST).astype(np.float32)


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
