"""NumPy twins of the multi-domain, multi-task baselines: float64, one row, one task, one expert at a time."""

import jax
import numpy as np

HIDDEN_EPSILON, EMBEDDING_EPSILON, PARTITIONED_EPSILON = 1e-6, 1e-12, 1e-5


def member(params, *place):
    """Returns one member of a stack: every leaf at the given index of its leading axes."""
    return jax.tree.map(lambda leaf: leaf[place], params["mlp"])


def layer_norm(x, params, epsilon):
    centred = x - x.mean()
    return centred / np.sqrt((centred**2).mean() + epsilon) * params["scale"] + params["bias"]


def linear(x, params):
    return x @ params["kernel"] + params.get("bias", 0.0)


def mlp(x, params):
    """Applies the hidden layers, with norms if there are any, then the output layer if there is one."""
    index = 0
    while f"hidden_{index}" in params:
        x = linear(x, params[f"hidden_{index}"])
        if f"norm_{index}" in params:
            x = layer_norm(x, params[f"norm_{index}"], HIDDEN_EPSILON)
        x, index = np.maximum(x, 0), index + 1
    return linear(x, params["output"]) if "output" in params else x


def softmax(x):
    shares = np.exp(x - x.max())
    return shares / shares.sum()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def input_vectors(row, params, options):
    """Returns [n, D]: the dense vector if there are dense columns, then the embeddings."""
    numbers, embeddings, mask = row
    vectors = embeddings * mask[:, None]
    if options.embedding_norm:
        flat = layer_norm(vectors.reshape(-1), params["embedding_norm"], EMBEDDING_EPSILON)
        vectors = flat.reshape(vectors.shape)
    if len(numbers):
        made = mlp(numbers, params["bottom"])
        made = np.maximum(made, 0) if options.bottom_output_activation == "relu" else made
        vectors = np.concatenate([made[None], vectors])
    return vectors


def task_inputs(row, params, options, shape, domain):
    """Returns the flat input of all tasks, with the domain's token if objectives are the tasks."""
    vectors = input_vectors(row, params, options)
    if options.tasks == "objectives" and shape.domains > 1:
        vectors = np.concatenate([vectors, params["domain_token"][domain][None]])
    return vectors.reshape(-1)


def list_tasks(tasks, shape):
    """Returns (domain or None, objective) of each task, in order."""
    domains = range(shape.domains) if tasks == "portfolios" else [None]
    return [(domain, objective) for domain in domains for objective in range(shape.objectives)]


def score(features, params, tasks, shape, domain):
    """Applies a tower to each task's features; returns the logits of the tasks of the row's domain."""
    logits = []
    for task, (of_domain, _) in enumerate(list_tasks(tasks, shape)):
        if of_domain in (None, domain):
            logits.append(mlp(features[task], member(params["towers"], task))[0])
    return np.array(logits)


def separate(row, params, options, shape, domain):
    flat = input_vectors(row, params, options).reshape(-1)
    return score([flat] * shape.domains * shape.objectives, params, "portfolios", shape, domain)


def shared_bottom(row, params, options, shape, domain):
    shared = mlp(task_inputs(row, params, options, shape, domain), params["shared"])
    return score([shared] * len(list_tasks(options.tasks, shape)), params, options.tasks, shape, domain)


def gate(x, params, index):
    return softmax(mlp(x, member(params["linear"], index)))


def mmoe(row, params, options, shape, domain):
    x = task_inputs(row, params, options, shape, domain)
    made = [mlp(x, member(params["experts"], i)) for i in range(options.experts)]
    features = []
    for task in range(len(list_tasks(options.tasks, shape))):
        shares = gate(x, params["gates"], task)
        features.append(sum(share * one for share, one in zip(shares, made, strict=True)))
    return score(features, params, options.tasks, shape, domain)


def ple(row, params, options, shape, domain):
    count = len(list_tasks(options.tasks, shape))
    shared = task_inputs(row, params, options, shape, domain)
    own = [shared] * count
    for level in range(options.levels):
        of_tasks = [
            [mlp(own[t], member(params[f"task_experts_{level}"], t, e)) for e in range(options.task_experts)]
            for t in range(count)
        ]
        of_all = [mlp(shared, member(params[f"shared_experts_{level}"], e)) for e in range(options.shared_experts)]
        before = own
        own = []
        for t in range(count):
            shares = gate(before[t], params[f"gates_{level}"], t)
            own.append(sum(share * one for share, one in zip(shares, [*of_tasks[t], *of_all], strict=True)))
        if level < options.levels - 1:
            everything = [one for experts in of_tasks for one in experts] + of_all
            shares = gate(shared, params[f"shared_gate_{level}"], 0)
            shared = sum(share * one for share, one in zip(shares, everything, strict=True))
    return score(own, params, options.tasks, shape, domain)


def adatt(row, params, options, shape, domain):
    count, each = len(list_tasks(options.tasks, shape)), options.task_experts
    features = [task_inputs(row, params, options, shape, domain)] * count
    for level in range(options.levels):
        experts = [
            [mlp(features[t], member(params[f"experts_{level}"], t, e)) for e in range(each)] for t in range(count)
        ]
        everything = [one for own in experts for one in own]
        before = features
        features = []
        for t in range(count):
            shares = gate(before[t], params[f"gates_{level}"], t)
            weights = params[f"own_{level}"][t] if each > 1 else [1.0]
            made = sum(share * one for share, one in zip(shares, everything, strict=True))
            features.append(made + sum(weight * one for weight, one in zip(weights, experts[t], strict=True)))
    return score(features, params, options.tasks, shape, domain)


def pepnet(row, params, options, shape, domain, watched=None):
    """PEPNet; `watched` is the row as the gates read it, where no gradient passes, by default the row itself."""
    vectors = input_vectors(row, params, options)
    flat = vectors.reshape(-1)
    seen = input_vectors(watched or row, params, options).reshape(-1)
    token = [params["domain_token"][domain]] if shape.domains > 1 else []
    gates = 2 * sigmoid(mlp(np.concatenate([*token, seen]), params["epnet"]))
    hidden = flat * gates
    ahead = int(shape.dense_features > 0)
    priors = [
        vectors[ahead + place]
        for name in options.prior_columns
        for place, column in enumerate(shape.token_columns)
        if column == name
    ]
    reads = np.concatenate([*priors, seen * gates])
    logits = []
    tasks = list_tasks(options.tasks, shape)
    for task, (of_domain, _) in enumerate(tasks):
        made = hidden
        for index, width in enumerate(options.tower_hidden):
            made = mlp(made, member(params[f"tower_{index}"], task))
            if priors:
                all_gates = 2 * sigmoid(mlp(reads, params[f"ppnet_{index}"]))
                made = made * all_gates[task * width : (task + 1) * width]
        if of_domain in (None, domain):
            logits.append(mlp(made, member(params["tower_output"], task))[0])
    return np.array(logits)


def star(row, params, options, shape, domain, moments):
    """STAR; `moments` is (means [G, n], variances [G, n])."""
    flat = input_vectors(row, params, options).reshape(-1)
    norm, (means, variances) = params["partitioned_norm"], moments
    x = (flat - means[domain]) / np.sqrt(variances[domain] + PARTITIONED_EPSILON)
    x = norm["scale"] * norm["domain_scale"][domain] * x + norm["bias"] + norm["domain_bias"][domain]
    names = [f"star_{index}" for index in range(len(options.star_hidden))]
    for name in [*names, "star_output"]:
        layer = params[name]
        x = x @ (layer["kernel"] * layer["domain_kernel"][domain])
        if options.mlp_biases:
            x = x + layer["bias"] + layer["domain_bias"][domain]
        if name != "star_output":
            x = layer_norm(x, params[f"{name}_norm"], HIDDEN_EPSILON) if options.mlp_norm == "layer" else x
            x = np.maximum(x, 0)
    token = [params["domain_token"][domain]] if shape.domains > 1 else []
    return x + mlp(np.concatenate([flat, *token]), params["auxiliary"])


def batch_moments(inputs, domain, domains):
    """Returns number, mean and variance of each domain's rows [B, n]; zeros for domains without rows."""
    counts = np.array([np.sum(domain == p) for p in range(domains)])
    means, variances = np.zeros((2, domains, inputs.shape[1]))
    for p in range(domains):
        if counts[p]:
            means[p], variances[p] = inputs[domain == p].mean(0), inputs[domain == p].var(0)
    return counts, means, variances
