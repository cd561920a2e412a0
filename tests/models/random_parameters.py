"""Draws parameters for tests of a model's values in NumPy, with the shapes of its init, to avoid compiling."""

import jax
import numpy as np


def draw_parameters(model, inputs, seed=0, noise=0.0):
    """Draws kernels at fan-in scale, scales of 1 and biases of 0, and adds `noise` to all of them."""
    random = np.random.default_rng(seed)

    def draw(path, leaf):
        start = {"scale": 1.0, "bias": 0.0, "lcb_bias": 0.0}.get(path[-1].key)
        if start is None:
            start = leaf.shape[0] ** -0.5 * random.normal(size=leaf.shape)
        return (start + noise * random.normal(size=leaf.shape)).astype(np.float32)

    shapes = jax.eval_shape(lambda key: model.init(key, inputs, train=False), jax.random.key(0))
    return jax.tree_util.tree_map_with_path(draw, shapes)
