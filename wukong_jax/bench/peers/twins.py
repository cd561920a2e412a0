"""Our networks in PyTorch. Tokens are [B, N, D], the order in which PyTorch's norms and products are fastest.

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
    build_linear,
    build_mlp,
    map_tokens,
    reorder,
    to_parameter,
)


def reorder_output(params: Params, sizes: tuple[int, int]) -> dict[str, Any]:
    """Reorders the outputs of a linear layer from [D, N] to [N, D]."""
    return {name: reorder(value, value.ndim - 1, sizes) for name, value in params.items()}


class WukongLayer(nn.Module):
    """Factorization machine block, linear compression block, residual and norm over D."""

    def __init__(self, params: Params, options: Any, width: int) -> None:
        super().__init__()
        block, mlp = params["fmb"], dict(params["fmb"]["mlp"])
        self.made, self.kept, self.width = options.fmb_tokens, options.lcb_tokens, width
        self.projection, self.lcb = to_parameter(block["projection"]), to_parameter(params["lcb"])
        self.residual = to_parameter(params["residual"]) if "residual" in params else None
        self.fm_norm = LayerNorm(block["norm"], options.fm_norm_epsilon)
        self.mlp = build_mlp(mlp | {"output": reorder_output(mlp["output"], (width, self.made))})
        self.norm = LayerNorm(params["norm"], options.norm_epsilon)

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps [B, N, D] to [B, n_F + n_L, D]."""
        rank = self.projection.shape[1]
        if self.residual is None:
            mixed = map_tokens(tokens, [self.projection, self.lcb])
            linear = tokens + functional.pad(mixed[:, rank:], (0, 0, self.made, 0))
        else:
            kernel = self.residual + functional.pad(self.lcb, (self.made, 0))
            mixed = map_tokens(tokens, [self.projection, kernel])
            linear = mixed[:, rank:]
        pairs = torch.bmm(mixed[:, :rank], tokens.mT)
        fm = self.mlp(self.fm_norm(pairs.flatten(1))).view(-1, self.made, self.width)
        return self.norm(torch.cat([fm + linear[:, : self.made], linear[:, self.made :]], dim=1))


class Wukong(nn.Module):
    """Twin of `wukong_jax.models.wukong.Wukong`."""

    def __init__(self, params: Params, options: Any, shape: Any) -> None:
        super().__init__()
        width, bottom, head = shape.width, dict(params["bottom"]), dict(params["head"])
        sizes = (width, options.dense_tokens)
        self.width, tokens = width, options.fmb_tokens + options.lcb_tokens
        self.bottom = build_mlp(bottom | {"output": reorder_output(bottom["output"], sizes)})
        layers = [WukongLayer(params[f"layer_{index}"], options, width) for index in range(options.layers)]
        self.layers = nn.Sequential(*layers)
        first = dict(head["hidden_0"])
        first["kernel"] = reorder(first["kernel"], 0, (width, tokens))
        self.head = build_mlp(head | {"hidden_0": first})

    def forward(self, dense: Tensor, embeddings: Tensor, domain: Tensor) -> Tensor:
        """Computes the logits."""
        tokens = torch.cat([embeddings, self.bottom(dense).view(len(dense), -1, self.width)], dim=1)
        return self.head(self.layers(tokens).flatten(1))


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
        dots = torch.bmm(vectors, vectors.mT).flatten(1).index_select(1, self.pairs)
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
            pairs = last[:, :, :, None] * first[:, :, None, :]
            last = pairs.flatten(2) @ kernel
            parts.append(last.sum(1))
        parts.append(torch.bmm(last.mT, first).flatten(1) @ self.kernels[-1])
        return self.head(torch.cat([*parts, self.deep(flat)], dim=1))


class FusionBlock(nn.Module):
    """Twin of Lattice's fusion block with RMS norms, shared by all domains."""

    def __init__(self, params: Params, options: Any, width: int) -> None:
        super().__init__()
        self.made, self.kept, self.width = options.fmb_tokens, options.lcb_tokens, width
        self.projection, self.lcb = to_parameter(params["projection"]), to_parameter(params["lcb"])
        self.residual = to_parameter(params["residual"]) if "residual" in params else None
        self.read = to_parameter(params["read"]) if "read" in params else None
        self.fm_norm, self.norm = RMSNorm(params["fm_norm"], 1e-12), RMSNorm(params["norm"], 1e-6)
        hidden = range(len(options.hidden))
        self.hidden = nn.ModuleList(build_linear(params[f"hidden_{i}"]) for i in hidden)
        self.hidden_norms = nn.ModuleList(RMSNorm(params[f"hidden_{i}_norm"], 1e-6) for i in hidden)
        self.output = build_linear(reorder_output(params["output"], (width, self.made)))

    def forward(self, tokens: Tensor, stored: list[Tensor]) -> Tensor:
        """Maps [B, N, D] and the stored tokens of earlier layers to [B, n_F + n_L, D]."""
        rank = self.projection.shape[1]
        if self.residual is None:
            mixed = map_tokens(tokens, [self.projection, self.lcb])
            linear = tokens + functional.pad(mixed[:, rank:], (0, 0, self.made, 0))
        else:
            mixed = map_tokens(tokens, [self.projection, self.residual + functional.pad(self.lcb, (self.made, 0))])
            linear = mixed[:, rank:]
        hidden = self.fm_norm(torch.bmm(mixed[:, :rank], tokens.mT).flatten(1))
        for layer, norm in zip(self.hidden, self.hidden_norms, strict=True):
            hidden = functional.silu(norm(layer(hidden)))
        fm = self.output(hidden).view(-1, self.made, self.width)
        made = torch.cat([fm + linear[:, : self.made], linear[:, self.made :]], dim=1)
        if self.read is not None:
            made = made + map_tokens(torch.cat(stored, dim=1), [self.read])
        return functional.silu(self.norm(made))


class Lattice(nn.Module):
    """Twin of `lattice.network` without sequences, with a domain token and heads for each domain."""

    def __init__(self, params: Params, options: Any, shape: Any) -> None:
        super().__init__()
        width, fusion = shape.width, options.fusion
        tokens, sizes = fusion.fmb_tokens + fusion.lcb_tokens, (width, options.dense_tokens)
        self.width, self.domains, self.objectives = width, shape.domains, shape.objectives
        self.dense_tokens = build_linear(reorder_output(params["dense_tokens"], sizes))
        self.domain_token = to_parameter(params["domain_token"])
        self.token_norm = RMSNorm(params["token_norm"], 1e-6)
        layers = range(options.layers)
        self.layers = nn.ModuleList(FusionBlock(params[f"fusion_{i}"], fusion, width) for i in layers)
        heads = params["heads"]
        hidden = reorder(heads["hidden"]["kernel"], 1, (width, tokens))  # [G, D * N, O * units]
        self.hidden = to_parameter(hidden.transpose(0, 2, 1).reshape(-1, hidden.shape[1]))
        self.hidden_norm = RMSNorm(heads["hidden_norm"], 1e-6)
        self.output, self.bias = to_parameter(heads["output"]), to_parameter(heads["logit_bias"])

    def forward(self, dense: Tensor, embeddings: Tensor, domain: Tensor) -> Tensor:
        """Computes the logits."""
        count = len(dense)
        made = self.dense_tokens(dense).view(count, -1, self.width)
        tokens = self.token_norm(torch.cat([embeddings, made, self.domain_token[domain][:, None]], dim=1))
        stored: list[Tensor] = []
        for layer in self.layers:
            stored.append(tokens)
            tokens = layer(tokens, stored[:-1])
        of_domains = functional.linear(tokens.flatten(1), self.hidden).view(count, self.domains, -1)
        own = of_domains.gather(1, domain[:, None, None].expand(-1, 1, of_domains.shape[2])).view(
            count, self.objectives, -1
        )
        hidden = functional.silu(self.hidden_norm(own))
        return (hidden * self.output[domain]).sum(2) + self.bias[domain]


TWINS: Mapping[str, Callable[[Params, Any, Any], nn.Module]] = {
    "wukong_jax.models.wukong:build": Wukong,
    "wukong_jax.models.dlrm:build": DLRM,
    "wukong_jax.models.dcnv2:build": DCNv2,
    "wukong_jax.models.masknet:build": MaskNet,
    "wukong_jax.models.xdeepfm:build": XDeepFM,
    "lattice.network:build": Lattice,
}
