"""Slow NumPy twins of the tower modules in float64: one tower, one row, one vector at a time."""

import numpy as np


def dlrm(tokens, weights, sizes):
    """Paper Listing 1 for tokens [F_t, D]."""
    if sizes.kept[0]:
        return tokens
    made = []
    if "tower_kernel" in weights:
        kernel = weights["tower_kernel"]  # [F_t, D, p, D_out]
        for p in range(kernel.shape[2]):
            made.append(sum(tokens[f] @ kernel[f, :, p] for f in range(len(tokens))))
    if "token_kernel" in weights:
        kernel = weights["token_kernel"]  # [D, c, D_out]
        for token in tokens:
            made += [token @ kernel[:, c] for c in range(kernel.shape[1])]
    return np.array(made)


def dcn(tokens, weights, sizes):
    """Paper Listing 2, with low-rank cross layers."""
    first = tokens.reshape(-1)
    crossed = first
    for layer in range(sum(name.startswith("down") for name in weights)):
        down = weights[f"down_{layer}"].reshape(len(first), -1)
        up = weights[f"cross_{layer}"].reshape(-1, len(first))
        crossed = first * ((crossed @ down) @ up + weights[f"cross_bias_{layer}"].reshape(-1)) + crossed
    if sizes.kept[0]:
        return crossed.reshape(tokens.shape)
    kernel = weights["kernel"]  # [F_t, D, P_t, D_out]
    return (crossed @ kernel.reshape(len(first), -1)).reshape(kernel.shape[2:])


def wukong(tokens, weights, sizes):
    """LCB for all vectors, plus an FMB for the first ones."""
    made = weights["lcb"].T @ tokens
    if "lcb_width" in weights:
        made = made @ weights["lcb_width"]
    if not sizes.fmb_vectors[0]:
        return made
    columns = weights["fm_projection"].T @ tokens if "fm_projection" in weights else tokens
    pairs = np.array([[column @ token for token in tokens] for column in columns])  # [K, F_t]
    normal = (pairs - pairs.mean()) / np.sqrt(pairs.var() + 1e-12)
    values = (normal * weights["fm_norm_scale"] + weights["fm_norm_bias"]).reshape(-1)
    for index in range(sum(name.startswith("fmb_hidden_bias") for name in weights)):
        kernel = weights[f"fmb_hidden_{index}"].reshape(len(values), -1)
        values = np.maximum(values @ kernel + weights[f"fmb_hidden_bias_{index}"], 0)
    output = weights["fmb_output"].reshape(len(values), -1) if values.size else weights["fmb_output"]
    block = (values @ output).reshape(weights["fmb_output_bias"].shape) + weights["fmb_output_bias"]
    made[: len(block)] += block
    return made
