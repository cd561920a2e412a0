"""PyTorch layers whose weights are copied from the Flax parameters of ours."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

Params = Mapping[str, Any]  # parameters of one Flax module as NumPy arrays


def to_parameter(array: np.ndarray) -> nn.Parameter:
    """Copies an array into a parameter of its own."""
    return nn.Parameter(torch.tensor(np.array(array, np.float32)))


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


class TokenLayerNorm(LayerNorm):
    """Layer norm over D of tokens [B, D, N]."""

    def forward(self, values: Tensor) -> Tensor:
        """Normalises [B, D, N]."""
        if not torch.compiler.is_compiling():  # the fused layer norm needs D last, and pays for two transposes
            return super().forward(values.mT).mT.contiguous()
        deviations = values - values.mean(1, keepdim=True)
        normal = deviations * torch.rsqrt(deviations.square().mean(1, keepdim=True) + self.epsilon)
        return normal * self.scale[:, None] + self.bias[:, None]


class TokenRMSNorm(RMSNorm):
    """RMS norm over D of tokens [B, D, N]."""

    def forward(self, values: Tensor) -> Tensor:
        """Normalises [B, D, N]."""
        root = torch.rsqrt(values.square().mean(1, keepdim=True) + self.epsilon)
        return values * root * self.scale[:, None]


def map_tokens(tokens: Tensor, kernel: Tensor) -> Tensor:
    """Mixes tokens [B, D, N] by a kernel [N, M], as one matrix product: [B, D, M]."""
    batch, width, count = tokens.shape
    return (tokens.reshape(batch * width, count) @ kernel).view(batch, width, -1)


def compress_tokens(tokens: Tensor, block: Tensor, lcb: Tensor, residual: Tensor | None) -> Tensor:
    """Adds the tokens of a factorization machine block, the linear compression block and the residual.

    Args:
      tokens: [B, D, N] input of the layer.
      block: [B, D, n_F] tokens of the factorization machine block.
      lcb: [N, n_L] kernel of the linear compression block.
      residual: [N, n_F + n_L] kernel of the residual; None if it is not mapped.

    Returns:
      [B, D, n_F + n_L].
    """
    made = block.shape[2]
    if residual is None:
        return torch.cat([block + tokens[:, :, :made], map_tokens(tokens, lcb) + tokens[:, :, made:]], dim=2)
    linear = map_tokens(tokens, residual + functional.pad(lcb, (made, 0)))
    return torch.cat([block + linear[:, :, :made], linear[:, :, made:]], dim=2)
