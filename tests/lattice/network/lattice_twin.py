"""A NumPy twin of the Lattice network: float64, one row at a time, with loops instead of matrix products."""

import numpy as np

EPSILON, FM_EPSILON, INPUT_EPSILON = 1e-6, 1e-12, 1e-8


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def norm(kind, x, params, epsilon=EPSILON):
    """Normalises over the last axis."""
    if kind == "layer":
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * params["scale"] + params["bias"]
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * params["scale"]


def activate(kind, x, params, epsilon=EPSILON):
    normal = norm(kind, x, params, epsilon)
    return np.maximum(normal, 0) if kind == "layer" else normal * sigmoid(normal)


def dense(x, params, domain):
    """Applies a linear layer with the kernel of the row's domain, if there are several."""
    kernel, bias = params["kernel"], params.get("bias", 0.0)
    if kernel.ndim == 3:
        kernel = kernel[domain]
        bias = bias[domain] if np.ndim(bias) == 2 else bias
    return x @ kernel + bias


def rotate(x, position):
    """Rotates [d] by its position: pairs (j, j + d / 2)."""
    half = len(x) // 2
    made = np.empty(len(x))
    for j in range(half):
        angle = position * 10_000.0 ** (-j / half)
        made[j] = x[j] * np.cos(angle) - x[j + half] * np.sin(angle)
        made[j + half] = x[j] * np.sin(angle) + x[j + half] * np.cos(angle)
    return made


def transformer(events, present, others, params, options, kind, positions, domain):
    """Applies a transformer block to events [L, D] and others [n, D]; returns [L, D]."""
    events = (events + attend(events, present, others, params, options, kind, positions, domain)) * present[:, None]
    hidden = activate(
        kind, dense(norm(kind, events, params["ffn_norm"]), params["ffn_hidden"], domain), params["ffn_hidden_norm"]
    )
    if options.context in ("gate", "both"):
        hidden = hidden * 2 * sigmoid(dense(others.reshape(-1), params["ffn_gate"], domain))
    return (events + dense(hidden, params["ffn_output"], domain)) * present[:, None]


def attend(events, present, others, params, options, kind, positions, domain):
    length, width = events.shape
    size = width // options.heads

    def heads(tokens, name):
        made = dense(tokens, params[name], domain).reshape(len(tokens), options.heads, size)
        normed = options.qk_norm and not name.endswith("value")
        return norm(kind, made, params[f"{name}_norm"]) if normed else made

    normal = norm(kind, events, params["attention_norm"])
    query, key, value = (heads(normal, name) for name in ("query", "key", "value"))
    if options.context in ("attention", "both"):
        normal = norm(kind, others, params["context_norm"])
        context_key, context_value = heads(normal, "context_key"), heads(normal, "context_value")
    made = np.zeros((length, width))
    for place in range(length):
        for head in range(options.heads):
            scores, values = [], []
            for other in range(length):
                turned = rotate(query[place, head], positions[place]), rotate(key[other, head], positions[other])
                scores.append(turned[0] @ turned[1] / np.sqrt(size) if present[other] else -1e9)
                values.append(value[other, head])
            if options.context in ("attention", "both"):
                scores += [query[place, head] @ k[head] / np.sqrt(size) for k in context_key]
                values += [v[head] for v in context_value]
            shares = np.exp(np.array(scores) - max(scores))
            made[place, head * size : (head + 1) * size] = shares @ np.array(values) / shares.sum()
    return dense(made, params["attention_output"], domain)


def fusion(tokens, stored, params, options, kind, domain):
    """Applies a fusion block to tokens [N, D]; returns [n_F + n_L, D]."""
    projected = params["projection"].T @ tokens  # [k, D]
    pairs = np.array([[left @ right for right in tokens] for left in projected]).reshape(-1)
    hidden = norm(kind, pairs, params["fm_norm"], FM_EPSILON)
    for index in range(len(options.hidden)):
        hidden = activate(kind, dense(hidden, params[f"hidden_{index}"], domain), params[f"hidden_{index}_norm"])
    fmb = dense(hidden, params["output"], domain).reshape(-1, options.fmb_tokens).T
    lcb = params["lcb"].T @ tokens
    residual = params["residual"].T @ tokens if "residual" in params else tokens
    made = np.concatenate([fmb, lcb]) + residual
    if stored:
        made = made + params["read"].T @ np.concatenate(stored)
    plain = kind == "layer" or options.output_activation == "none"
    return (norm if plain else activate)(kind, made, params["norm"])


def batch_norm(tokens, params, moments, epsilon):
    """Normalises tokens [n, D] by kept moments of [D * n] numbers, coordinate by coordinate of each token."""
    made, count = np.empty(tokens.shape), len(tokens)
    for token, coordinate in np.ndindex(*tokens.shape):
        place = coordinate * count + token
        deviation = (tokens[token, coordinate] - moments["mean"][place]) / np.sqrt(moments["variance"][place] + epsilon)
        made[token, coordinate] = deviation * params["scale"][place] + params["bias"][place]
    return made


def network(row, params, options, shape, domain, statistics=None):
    """Computes the logits [O] of one row (dense [F], embeddings [N, D], mask [N]); batch norms need the statistics."""
    numbers, embeddings, mask = row
    embeddings, kind = embeddings * mask[:, None], options.norm
    columns = np.array(shape.token_columns)
    others = [embeddings[i] for i, column in enumerate(columns) if column not in options.sequences]
    if shape.dense_features:
        hidden = numbers
        for index in range(len(options.dense_hidden)):
            hidden = activate(kind, dense(hidden, params[f"dense_{index}"], domain), params[f"dense_{index}_norm"])
        others += list(dense(hidden, params["dense_tokens"], domain).reshape(shape.width, -1).T)
    if options.domain_token and shape.domains > 1:
        others.append(params["domain_token"][domain])
    if options.input_norm == "batch":
        others = batch_norm(np.array(others), params["input_norm"], statistics["input_norm"], INPUT_EPSILON)
    else:
        others = norm(kind, np.array(others), params["token_norm"])
    if options.mixed_tokens:
        others = norm(kind, params["mixing"].T @ others, params["mixing_norm"])

    events, present, positions = [], [], []
    for number, name in enumerate(options.sequences):
        places = np.flatnonzero(columns == name)
        kindred = norm(kind, embeddings[places], params["event_norm"]) + params["sequence_kind"][number]
        events.append(kindred * mask[places][:, None])
        present.append(mask[places])
        positions += range(len(places))
    stored = []
    for layer in range(options.layers):
        tokens = others
        if options.sequences:
            lengths = [len(own) for own in present]
            made = transformer(
                np.concatenate(events),
                np.concatenate(present),
                others,
                params[f"transformer_{layer}"],
                options.transformer,
                kind,
                positions,
                domain,
            )
            events = np.split(made, np.cumsum(lengths)[:-1])
            entering = events
            if options.sequence_fusion == "pooled":
                entering = [
                    own.sum(0, keepdims=True) / max(there.sum(), 1) for own, there in zip(events, present, strict=True)
                ]
            tokens = np.concatenate([*entering, others])
        history = list(stored) if options.context_storage else []
        stored.append(tokens)
        others = fusion(tokens, history, params[f"fusion_{layer}"], options.fusion, kind, domain)
    return heads(others.T.reshape(-1), params["heads"], options, shape, domain)


def heads(features, params, options, shape, domain):
    biases = params["logit_bias"][domain]
    if not options.head_hidden:
        return dense(features, params["output"], domain) + biases
    hidden = dense(features, params["hidden"], domain).reshape(shape.objectives, -1)
    hidden = activate(options.norm, hidden, params["hidden_norm"])
    read_out = params["output"]
    return (hidden * read_out[domain if len(read_out) > 1 else 0]).sum(1) + biases
