"""A slow NumPy twin of Wukong: float64, one row at a time, tokens on the first axis as in the paper.

The paper leaves two orders open; the twin follows the module: FM(X) is flattened projection-major (its transpose,
row by row), and the MLP's output is split into D groups of n_F.
"""

import numpy as np

from wukong_jax.layers.mlp import HIDDEN_NORM_EPSILON


def layer_norm(values, epsilon, scale, bias, axis):
    deviations = values - values.mean(axis=axis, keepdims=True)
    variance = (deviations**2).mean(axis=axis, keepdims=True)
    return deviations / np.sqrt(variance + epsilon) * scale + bias


def mlp(values, params):
    """Applies the layers of an `MLP`, with norms if there are any, and without a last layer if there is none."""
    hidden = sorted(name for name in params if name.startswith("hidden"))
    for name in [*hidden, *(["output"] if "output" in params else [])]:
        kernel, made = params[name]["kernel"], []
        for column in range(kernel.shape[1]):
            total = sum(values[row] * kernel[row, column] for row in range(kernel.shape[0]))
            made.append(total + params[name].get("bias", np.zeros(kernel.shape[1]))[column])
        values = np.array(made)
        if name != "output":
            norm = params.get(name.replace("hidden", "norm"))
            if norm:
                values = layer_norm(values, HIDDEN_NORM_EPSILON, norm["scale"], norm["bias"], 0)
            values = np.maximum(values, 0)
    return values


def project(tokens, kernel):
    """Computes W^T X for kernel W [N, M]: new token m is a weighted sum of the input tokens."""
    made = np.zeros((kernel.shape[1], tokens.shape[1]))
    for m in range(kernel.shape[1]):
        for n in range(tokens.shape[0]):
            made[m] += kernel[n, m] * tokens[n]
    return made


def attentive_projection(tokens, params, options):
    compressed = project(tokens, params["compression"])
    flat = compressed.T.reshape(-1)
    flat = layer_norm(flat, options.norm_epsilon, params["norm"]["scale"], params["norm"]["bias"], 0)
    return mlp(flat, params["mlp"]).reshape(tokens.shape[0], options.fm_rank)


def interactions(tokens, params, options):
    """Computes FM(X): [N, N] for the full FM, otherwise X (X^T Y), [N, K]."""
    if options.fm == "full":
        right = tokens.T
    elif options.fm == "static":
        right = tokens.T @ params["projection"]
    else:
        right = tokens.T @ attentive_projection(tokens, params["projection"], options)
    made = np.zeros((tokens.shape[0], right.shape[1]))
    for n in range(tokens.shape[0]):
        for k in range(right.shape[1]):
            made[n, k] = sum(tokens[n, d] * right[d, k] for d in range(tokens.shape[1]))
    return made


def fmb(tokens, params, options):
    flat = interactions(tokens, params, options).T.reshape(-1)
    if options.fm_norm:
        flat = layer_norm(flat, options.fm_norm_epsilon, params["norm"]["scale"], params["norm"]["bias"], 0)
    made = mlp(flat, params["mlp"]).reshape(tokens.shape[1], options.fmb_tokens).T
    return np.maximum(made, 0) if options.fmb_output_activation == "relu" else made


def interaction_layer(tokens, params, options):
    width = tokens.shape[1]
    first, last = np.zeros((options.fmb_tokens, width)), np.zeros((options.lcb_tokens, width))
    if options.use_fmb:
        first = fmb(tokens, params["fmb"], options)
    if options.use_lcb and options.lcb_tokens:
        last = project(tokens, params["lcb"])
        if options.token_biases:
            last = last + params["lcb_bias"][:, None]
    made = np.concatenate([first, last])
    if options.use_residual:
        same = tokens.shape[0] == options.layer_tokens
        made = made + (tokens if same else project(tokens, params["residual"]))
    if options.norm == "none":
        return made
    scale, bias = params["norm"]["scale"], params["norm"]["bias"]
    if options.norm == "flat":
        return layer_norm(made, options.norm_epsilon, scale.T, bias.T, (0, 1))
    return layer_norm(made, options.norm_epsilon, scale, bias, 1)


def wukong(dense, embeddings, token_mask, params, options):
    logits = []
    for row in range(len(embeddings)):
        tokens = embeddings[row] * token_mask[row][:, None]
        if dense.shape[1]:
            made = mlp(dense[row], params["bottom"]).reshape(-1, options.dense_tokens).T
            tokens = np.concatenate([tokens, made])
        for index in range(options.layers):
            tokens = interaction_layer(tokens, params[f"layer_{index}"], options)
        logits.append(mlp(tokens.T.reshape(-1), params["head"]))
    return np.array(logits)
