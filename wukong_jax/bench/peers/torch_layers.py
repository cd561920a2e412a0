"""PyTorch layers whose weights are copied from the Flax parameters of ours."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

Params = Mapping[str, Any]  # parameters of one Flax module as NumPy arrays


def to_parameter(array: np.ndarray) -> nn.Parameter:
    """Copies an array into a parameter of its own."""
    return nn.Parameter(torch.tensor(np.array(array, np.float32)))


def reorder(kernel: np.ndarray, axis: int, sizes: tuple[int, int]) -> np.ndarray:
    """Reorders an axis from [D, N] to [N, D] (`sizes` = D, N): flattened tokens are [D, N] in ours and [N, D] here."""
    split = kernel.reshape(*kernel.shape[:axis], *sizes, *kernel.shape[axis + 1 :])
    return np.swapaxes(split, axis, axis + 1).reshape(kernel.shape)


def build_linear(params: Params) -> nn.Linear:
    """Builds a linear layer from a Flax kernel [inputs, outputs] and, if there is one, bias."""
    inputs, outputs = params["kernel"].shape
    layer = nn.Linear(inputs, outputs, bias="bias" in params)
    layer.weight = to_parameter(params["kernel"].T)
    if "bias" in params:
        layer.bias = to_parameter(params["bias"])
    return layer


def build_mlp(params: Params) -> nn.Sequential:
    """Builds the twin of `wukong_jax.layers.mlp.MLP` without norm and dropout."""
    layers: list[nn.Module] = []
    for index in range(sum(name.startswith("hidden_") for name in params)):
        layers += [build_linear(params[f"hidden_{index}"]), nn.ReLU()]
    if "output" in params:
        layers.append(build_linear(params["output"]))
    return nn.Sequential(*layers)


class LayerNorm(nn.Module):
    """Layer norm over the last axis with the scale and bias of ours."""

    def __init__(self, params: Params, epsilon: float) -> None:
        super().__init__()
        self.scale, self.bias = to_parameter(params["scale"]), to_parameter(params["bias"])
        self.epsilon = epsilon

    def forward(self, values: Tensor) -> Tensor:
        """Normalises [..., n]."""
        return functional.layer_norm(values, self.scale.shape, self.scale, self.bias, self.epsilon)


class RMSNorm(nn.Module):
    """RMS norm over the last axis with the scale of ours."""

    def __init__(self, params: Params, epsilon: float) -> None:
        super().__init__()
        self.scale, self.epsilon = to_parameter(params["scale"]), epsilon

    def forward(self, values: Tensor) -> Tensor:
        """Normalises [..., n]."""
        return functional.rms_norm(values, self.scale.shape, self.scale, self.epsilon)


def map_tokens(tokens: Tensor, kernels: Sequence[Tensor]) -> Tensor:
    """Mixes tokens [B, N, D] by kernels [N, M_i], all with one product: [B, M_1 + M_2 + ..., D]."""
    return torch.matmul(torch.cat(list(kernels), dim=1).mT, tokens)
