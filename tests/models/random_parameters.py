"""Parameters for tests of a model's values: as its init would shape them, drawn in NumPy (no compilation)."""

import jax
import numpy as np


def draw_parameters(model, inputs, seed=0, noise=0.0):
    """Kernels at fan-in scale, scales 1, biases 0; `noise` moves every one of them off that."""
    random = np.random.default_rng(seed)

    def draw(path, leaf):
        start = {"scale": 1.0, "bias": 0.0, "lcb_bias": 0.0}.get(path[-1].key)
        if start is None:
            start = leaf.shape[0] ** -0.5 * random.normal(size=leaf.shape)
        return (start + noise * random.normal(size=leaf.shape)).astype(np.float32)

    shapes = jax.eval_shape(lambda key: model.init(key, inputs, train=False), jax.random.key(0))
    return jax.tree_util.tree_map_with_path(draw, shapes)
