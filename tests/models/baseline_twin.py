"""NumPy code shared by the twins of the baselines (float64, one row at a time), and synthetic inputs for them."""

import numpy as np

from tests.models import wukong_twin
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.vector_model import EMBEDDING_NORM_EPSILON


def make_inputs(shape, rows=4, scale=0.5, seed=0):
    """Returns a model's inputs with 30 % of tokens absent."""
    random = np.random.default_rng(seed)
    dense = random.normal(size=(rows, shape.dense_features)).astype(np.float32)
    embeddings = (scale * random.normal(size=(rows, shape.tokens, shape.width))).astype(np.float32)
    mask = (random.random((rows, shape.tokens)) < 0.7).astype(np.float32)
    return ModelInputs(dense, embeddings, mask, np.zeros(rows, np.int32), {})


def prepared_embeddings(embeddings, mask, params, options):
    """Returns [N, D] of one row: zeros for absent tokens, then normalised over all of them together."""
    vectors = embeddings * mask[:, None]
    if options.embedding_norm:
        norm = params["embedding_norm"]
        flat = vectors.reshape(-1)
        vectors = wukong_twin.layer_norm(flat, EMBEDDING_NORM_EPSILON, norm["scale"], norm["bias"], 0).reshape(
            vectors.shape
        )
    return vectors


def dense_vector(dense, params, options):
    """Computes [D] from one row's dense columns [F_dense]."""
    made = wukong_twin.mlp(dense, params["bottom"])
    return np.maximum(made, 0) if options.bottom_output_activation == "relu" else made


def input_vectors(dense, embeddings, mask, params, options):
    """Returns [n, D] of one row: the dense vector if there are dense columns, then the embeddings."""
    vectors = list(prepared_embeddings(embeddings, mask, params, options))
    if len(dense):
        vectors.insert(0, dense_vector(dense, params, options))
    return np.array(vectors)
