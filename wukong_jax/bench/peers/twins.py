"""Our networks in PyTorch.

Wukong's and Lattice's tokens are [B, D, N] here, too: maps over tokens and the products of the factorization machine
take 35, 31 and 61 ms forward and backward at the layers' sizes of Wukong's cases m and l, and 42, 38 and 80 if they are
[B, N, D] (the best of several forms each); whole steps are as fast or faster, compiled as well as eager.

Each twin does the arithmetic of our module with the options of `cases.CASES`, and is called with (dense [B, F_dense],
embeddings [B, N, D], domain [B]); it returns logits [B, O]. What a twin leaves out shows in the number of its
parameters and in its losses, both of which are compared before anything is timed.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from wukong_jax.bench.peers.torch_layers import (
    LayerNorm,
    Params,
    RMSNorm,
    TokenLayerNorm,
    TokenRMSNorm,
    build_linear,
    build_mlp,
    compress_tokens,
    map_tokens,
    to_parameter,
)


class WukongLayer(nn.Module):
    """Factorization machine block, linear compression block, residual and norm over D."""

    def __init__(self, params: Params, options: Any) -> None:
        super().__init__()
        block = params["fmb"]
        self.made = options.fmb_tokens
        self.projection, self.lcb = to_parameter(block["projection"]), to_parameter(params["lcb"])
        self.residual = to_parameter(params["residual"]) if "residual" in params else None
        self.fm_norm, self.mlp = LayerNorm(block["norm"], options.fm_norm_epsilon), build_mlp(block["mlp"])
        self.norm = TokenLayerNorm(params["norm"], options.norm_epsilon)

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps [B, D, N] to [B, D, n_F + n_L]."""
        pairs = torch.bmm(map_tokens(tokens, self.projection).mT, tokens)
        block = self.mlp(self.fm_norm(pairs.flatten(1))).view(*tokens.shape[:2], self.made)
        return self.norm(compress_tokens(tokens, block, self.lcb, self.residual))


class Wukong(nn.Module):
    """Twin of `wukong_jax.models.wukong.Wukong`."""

    def __init__(self, params: Params, options: Any, shape: Any) -> None:
        super().__init__()
        self.width = shape.width
        self.bottom, self.head = build_mlp(params["bottom"]), build_mlp(params["head"])
        self.layers = nn.Sequential(*(WukongLayer(params[f"layer_{i}"], options) for i in range(options.layers)))

    def forward(self, dense: Tensor, embeddings: Tensor, domain: Tensor) -> Tensor:
        """Computes the logits."""
        made = self.bottom(dense).view(len(dense), self.width, -1)
        return self.head(self.layers(torch.cat([embeddings.mT, made], dim=2)).flatten(1))


class DLRM(nn.Module):
    """Twin of `wukong_jax.models.dlrm.DLRM`."""

    def __init__(self, params: Params, options: Any, shape: Any) -> None:
        super().__init__()
        self.bottom, self.top = build_mlp(params["bottom"]), build_mlp(params["top"])
        count = shape.tokens + 1
        rows, columns = np.tril_indices(count, -1)
        self.register_buffer("pairs", torch.tensor(rows * count + columns))

    def forward(self, dense: Tensor, embeddings: Tensor, domain: Tensor) -> Tensor:
        """Computes the logits."""
        made = functional.relu(self.bottom(dense))
        vectors = torch.cat([made[:, None], embeddings], dim=1)
        # forward and backward take 22 ms eager or compiled; index_select 21 and 47, two index arrays 31 and 43
        dots = torch.bmm(vectors, vectors.mT).flatten(1).gather(1, self.pairs.expand(len(dense), -1))
        return self.top(torch.cat([made, dots], dim=1))


class DCNv2(nn.Module):
    """Twin of `wukong_jax.models.dcnv2.DCNv2`, stacked and of full rank."""

    def __init__(self, params: Params, options: Any, shape: Any) -> None:
        super().__init__()
        self.bottom, self.head = build_mlp(params["bottom"]), build_mlp(params["head"])
        self.cross = nn.ModuleList(build_linear(params["cross"][f"cross_{i}"]) for i in range(options.cross_layers))

    def forward(self, dense: Tensor, embeddings: Tensor, domain: Tensor) -> Tensor:
        """Computes the logits."""
        start = torch.cat([embeddings.flatten(1), functional.relu(self.bottom(dense))], dim=1)
        crossed = start
        for layer in self.cross:
            crossed = torch.addcmul(crossed, start, layer(crossed))
        return self.head(crossed)


class MaskNet(nn.Module):
    """Twin of `wukong_jax.models.masknet.MaskNet`, serial."""

    def __init__(self, params: Params, options: Any, shape: Any) -> None:
        super().__init__()
        count, width = shape.tokens + 1, shape.width
        self.bottom, self.head = build_mlp(params["bottom"]), build_mlp(params["head"])
        self.scale = to_parameter(params["token_norm"]["scale"])
        self.bias = to_parameter(params["token_norm"]["bias"])
        self.aggregation = build_linear(params["aggregation"])
        blocks = range(len(options.block_widths))
        self.projections = nn.ModuleList(build_linear(params[f"projection_{i}"]) for i in blocks)
        self.blocks = nn.ModuleList(build_linear(params[f"block_{i}"]) for i in blocks)
        self.norms = nn.ModuleList(LayerNorm(params[f"block_norm_{i}"], 1e-12) for i in blocks)
        masked = [count * width, *options.block_widths[:-1]]
        self.widths = [max(1, int(options.reduction_ratio * size)) for size in masked]

    def forward(self, dense: Tensor, embeddings: Tensor, domain: Tensor) -> Tensor:
        """Computes the logits."""
        made = functional.relu(self.bottom(dense))
        vectors = torch.cat([made[:, None], embeddings], dim=1)
        normed = functional.layer_norm(vectors, vectors.shape[-1:], eps=1e-12)
        source = (normed * self.scale + self.bias).flatten(1)
        guides = functional.relu(self.aggregation(vectors.flatten(1))).split(self.widths, dim=1)
        for guide, projection, block, norm in zip(guides, self.projections, self.blocks, self.norms, strict=True):
            source = functional.relu(norm(block(projection(guide) * source)))
        return self.head(source)


def combine_pairs(last: Tensor, first: Tensor, kernel: Tensor) -> Tensor:
    """Computes a CIN layer's maps [B, D, maps] of [B, D, H] and [B, D, n] with a kernel [H * n, maps].

    The fastest of five forms, eager and compiled; all products of pairs and one matrix product take up to four times
    as long.
    """
    (batch, width, maps), count = last.shape, first.shape[2]
    by_right = kernel.view(maps, count, -1).transpose(0, 1).reshape(count, -1)
    mixed = (first.reshape(batch * width, count) @ by_right).view(batch * width, maps, -1)
    return torch.bmm(last.reshape(batch * width, 1, maps), mixed).view(batch, width, -1)


class XDeepFM(nn.Module):
    """Twin of `wukong_jax.models.xdeepfm.XDeepFM` with linear maps: the last layer's sums need no maps."""

    def __init__(self, params: Params, options: Any, shape: Any) -> None:
        super().__init__()
        self.bottom, self.deep, self.head = (build_mlp(params[name]) for name in ("bottom", "deep", "head"))
        kernels = [params["cin"][f"kernel_{i}"] for i in range(len(options.cin_maps))]
        self.kernels = nn.ParameterList(map(to_parameter, kernels))

    def forward(self, dense: Tensor, embeddings: Tensor, domain: Tensor) -> Tensor:
        """Computes the logits."""
        made = functional.relu(self.bottom(dense))
        vectors = torch.cat([made[:, None], embeddings], dim=1)
        flat, first = vectors.flatten(1), vectors.mT.contiguous()  # [B, n * D], [B, D, n]
        last, parts = first, [flat]
        for kernel in self.kernels[:-1]:
            last = combine_pairs(last, first, kernel)
            parts.append(last.sum(1))
        parts.append(torch.bmm(last.mT, first).flatten(1) @ self.kernels[-1])
        return self.head(torch.cat([*parts, self.deep(flat)], dim=1))


class FusionBlock(nn.Module):
    """Twin of Lattice's fusion block with RMS norms, shared by all domains."""

    def __init__(self, params: Params, options: Any) -> None:
        super().__init__()
        self.made = options.fmb_tokens
        self.projection, self.lcb = to_parameter(params["projection"]), to_parameter(params["lcb"])
        self.residual = to_parameter(params["residual"]) if "residual" in params else None
        self.read = to_parameter(params["read"]) if "read" in params else None
        self.fm_norm, self.norm = RMSNorm(params["fm_norm"], 1e-12), TokenRMSNorm(params["norm"], 1e-6)
        hidden = range(len(options.hidden))
        self.hidden = nn.ModuleList(build_linear(params[f"hidden_{i}"]) for i in hidden)
        self.hidden_norms = nn.ModuleList(RMSNorm(params[f"hidden_{i}_norm"], 1e-6) for i in hidden)
        self.output = build_linear(params["output"])

    def forward(self, tokens: Tensor, stored: list[Tensor]) -> Tensor:
        """Maps [B, D, N] and the stored tokens of earlier layers to [B, D, n_F + n_L]."""
        pairs = torch.bmm(map_tokens(tokens, self.projection).mT, tokens)
        hidden = self.fm_norm(pairs.flatten(1))
        for layer, norm in zip(self.hidden, self.hidden_norms, strict=True):
            hidden = functional.silu(norm(layer(hidden)))
        block = self.output(hidden).view(*tokens.shape[:2], self.made)
        made = compress_tokens(tokens, block, self.lcb, self.residual)
        if self.read is not None:
            made = made + map_tokens(torch.cat(stored, dim=2), self.read)
        return functional.silu(self.norm(made))


class Lattice(nn.Module):
    """Twin of `lattice.network` without sequences, with a domain token and heads for each domain."""

    def __init__(self, params: Params, options: Any, shape: Any) -> None:
        super().__init__()
        self.width, self.domains, self.objectives = shape.width, shape.domains, shape.objectives
        self.dense_tokens = build_linear(params["dense_tokens"])
        self.domain_token = to_parameter(params["domain_token"])
        self.token_norm = TokenRMSNorm(params["token_norm"], 1e-6)
        layers = range(options.layers)
        self.layers = nn.ModuleList(FusionBlock(params[f"fusion_{i}"], options.fusion) for i in layers)
        heads = params["heads"]
        hidden = heads["hidden"]["kernel"]  # [G, D * N, O * units]
        self.hidden = to_parameter(hidden.transpose(0, 2, 1).reshape(-1, hidden.shape[1]))
        self.hidden_norm = RMSNorm(heads["hidden_norm"], 1e-6)
        self.output, self.bias = to_parameter(heads["output"]), to_parameter(heads["logit_bias"])

    def forward(self, dense: Tensor, embeddings: Tensor, domain: Tensor) -> Tensor:
        """Computes the logits."""
        count = len(dense)
        made = self.dense_tokens(dense).view(count, self.width, -1)
        tokens = self.token_norm(torch.cat([embeddings.mT, made, self.domain_token[domain][:, :, None]], dim=2))
        stored: list[Tensor] = []
        for layer in self.layers:
            stored.append(tokens)
            tokens = layer(tokens, stored[:-1])
        of_domains = functional.linear(tokens.flatten(1), self.hidden).view(count, self.domains, -1)
        own = of_domains.gather(1, domain[:, None, None].expand(-1, 1, of_domains.shape[2]))
        hidden = functional.silu(self.hidden_norm(own.view(count, self.objectives, -1)))
        return (hidden * self.output[domain]).sum(2) + self.bias[domain]


TWINS: Mapping[str, Callable[[Params, Any, Any], nn.Module]] = {
    "wukong_jax.models.wukong:build": Wukong,
    "wukong_jax.models.dlrm:build": DLRM,
    "wukong_jax.models.dcnv2:build": DCNv2,
    "wukong_jax.models.masknet:build": MaskNet,
    "wukong_jax.models.xdeepfm:build": XDeepFM,
    "lattice.network:build": Lattice,
}
