"""Computes the size of a run: parameters of the dense model and the tables, and FLOPs per example."""

import itertools
import math
from typing import Any

import jax

from wukong_jax.models.cost import count_cost
from wukong_jax.training.run import Run

FLOPS_PER_TRAINED_MAC = 6  # 2 each for the forward pass and the gradients of both factors


def describe_size(run: Run, params: Any) -> dict[str, Any]:
    """Returns the parameters and FLOPs of a run; `params` are its dense weights, as arrays or shapes."""
    return {
        "dense_parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)),
        "embedding_parameters": run.layout.embedding_parameters,
        **count_flops(run),
    }


def count_flops(run: Run) -> dict[str, float]:
    """Counts FLOPs per example in training and in serving: the dense model and the projection of narrow embeddings."""
    layout = run.layout
    widths = [layout.narrow_width, *layout.narrow_hidden, layout.narrow_tokens * layout.width]
    projection = sum(a * b for a, b in itertools.pairwise(widths)) if layout.narrow_tokens else 0
    cost = count_cost(run.network.model, run.shape)
    return {
        "train_flops_per_example": cost.train_flops_per_example + FLOPS_PER_TRAINED_MAC * projection,
        "serve_flops_per_example": cost.serve_flops_per_example + 2 * projection,
    }
