"""Tower modules, which compress a tower's embeddings before they cross the slow link (paper section 4).

- "dlrm" (Listing 1): p vectors linear in all tokens of the tower, then c vectors linear in each token.
- "dcn" (Listing 2): cross layers over the flattened tokens, then a linear map to the tower's vectors.
- "wukong" (ours): Wukong's interaction layer without its norm. Every vector is linear in the tokens (a linear
  compression block), and the output of a factorization machine block is added to the first ones. It starts at the size
  of the embeddings, so that it dominates neither the linear part nor the products of the model after the towers.

The paper mentions no biases, norms or activations in the linear maps of the first two, so they have none. For "dlrm"
and "dcn", a tower of one token with one output vector of the same width sends the token without a projection: only
then do costs agree with those published for 16 towers.

All functions work on arrays with a leading axis of towers, so a single tower (T = 1, no padding) and all towers of a
host (padded to the largest) run the same code.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dmt.tower_module_options import TowerModuleOptions, TowerSizes
from dmt.tower_weights import TowerWeight
from wukong_jax.layers.norms import normalize

# As in Wukong: FM values are quadratic in the embeddings, so their variance is the fourth power of their size.
FM_NORM_EPSILON = 1e-12

Weights = Mapping[str, jax.Array]
Declared = dict[str, TowerWeight]


class TowerModules(nn.Module):
    """The modules of all towers, their weights stacked on a leading axis T and padded to the largest tower.

    Attributes:
      options: the kind of module and its sizes.
      sizes: sizes of each tower.
      dtype: dtype of the matrix products; weights are float32.
    """

    options: TowerModuleOptions
    sizes: TowerSizes
    dtype: Any

    def setup(self) -> None:
        """Declares the weights."""
        self.weights = {name: self.param(name, weight.init) for name, weight in self.declared.items()}

    @property
    def declared(self) -> Declared:
        """The weights by name."""
        return declare_weights(self.options, self.sizes)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Applies every tower's module.

        Args:
          tokens: [T, B, F_max, D] float32, zeros in the padding.

        Returns:
          Vectors [T, B, P_max, D_out] float32, zeros in the padding.
        """
        made = apply_module(self.options, self.weights, tokens.astype(self.dtype), self.sizes)
        return made.astype(jnp.float32)

    def compress_tower(self, tower: int, tokens: jax.Array) -> jax.Array:
        """Applies one tower's module, without padding.

        Args:
          tower: index of the tower.
          tokens: [B, F_t, D] float32.

        Returns:
          Vectors [B, P_t, D_out] float32.
        """
        weights = {name: weight.slice_tower(self.weights[name], tower) for name, weight in self.declared.items()}
        sizes = self.sizes.select(tower)
        return apply_module(self.options, weights, tokens[None].astype(self.dtype), sizes)[0].astype(jnp.float32)


def declare_weights(options: TowerModuleOptions, sizes: TowerSizes) -> Declared:
    """Returns a module's weights by name; none for "pass_through", and none for "dlrm" if every token is kept."""
    declare: dict[str, Callable[[TowerModuleOptions, TowerSizes], Declared]] = {
        "pass_through": lambda options, sizes: {},
        "dlrm": _declare_dlrm,
        "dcn": _declare_dcn,
        "wukong": _declare_wukong,
    }
    return declare[options.kind](options, sizes)


def apply_module(options: TowerModuleOptions, weights: Weights, tokens: jax.Array, sizes: TowerSizes) -> jax.Array:
    """Applies the modules of the given towers.

    Args:
      options: the kind of module and its sizes.
      weights: the declared weights of these towers.
      tokens: [T, B, F_max, D] in the compute dtype, zeros in the padding.
      sizes: sizes of these towers.

    Returns:
      Vectors [T, B, P_max, D_out] in the tokens' dtype, zeros in the padding.
    """
    if options.kind == "pass_through":
        return tokens
    apply = {"dlrm": _apply_dlrm, "dcn": _apply_dcn, "wukong": _apply_wukong}[options.kind]
    return _zero_padding(apply(options, weights, tokens, sizes), sizes.vectors)


def multiply_by_tower(values: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiplies each tower's values by its kernel, summing over all axes of the values after the rows.

    Args:
      values: [T, B, ...in] float.
      kernel: [T, ...in, ...out] float32.

    Returns:
      [T, B, ...out] in the values' dtype.
    """
    towers, rows = values.shape[:2]
    flat = values.reshape(towers, rows, -1)
    kernel = kernel.astype(values.dtype)
    made = jnp.einsum("tbm,tmk->tbk", flat, kernel.reshape(towers, flat.shape[2], -1))
    return made.reshape(towers, rows, *kernel.shape[values.ndim - 1 :])


def _declare_dlrm(options: TowerModuleOptions, sizes: TowerSizes) -> Declared:
    declared: Declared = {}
    of_token, of_tower = options.read("token_vectors"), options.read("tower_vectors")
    width, vector_width = (sizes.width,) * sizes.count, (sizes.vector_width,) * sizes.count
    if all(sizes.kept):
        return declared
    if of_tower:
        axes = (_projected_tokens(sizes), width, (of_tower,) * sizes.count, vector_width)
        declared["tower_kernel"] = TowerWeight(axes, fan_in=2)
    if of_token:
        read = tuple(0 if kept else sizes.width for kept in sizes.kept)
        declared["token_kernel"] = TowerWeight((read, (of_token,) * sizes.count, vector_width))
    return declared


def _apply_dlrm(options: TowerModuleOptions, weights: Weights, tokens: jax.Array, sizes: TowerSizes) -> jax.Array:
    if all(sizes.kept):
        return tokens
    towers, rows, count, width = tokens.shape
    parts = []
    if options.read("tower_vectors"):
        parts.append(multiply_by_tower(tokens, weights["tower_kernel"]))
    if options.read("token_vectors"):
        made = multiply_by_tower(tokens.reshape(towers, rows * count, width), weights["token_kernel"])
        parts.append(made.reshape(towers, rows, -1, sizes.vector_width))
    return _keep_single(jnp.concatenate(parts, axis=2), tokens, sizes)


def _declare_dcn(options: TowerModuleOptions, sizes: TowerSizes) -> Declared:
    declared: Declared = {}
    width, rank = (sizes.width,) * sizes.count, (options.read("cross_rank"),) * sizes.count
    for layer in range(options.read("cross_layers")):
        declared[f"down_{layer}"] = TowerWeight((sizes.tokens, width, rank), fan_in=2)
        declared[f"cross_{layer}"] = TowerWeight((rank, sizes.tokens, width))
        declared[f"cross_bias_{layer}"] = TowerWeight((sizes.tokens, width), start="zeros")
    if not all(sizes.kept):
        axes = (_projected_tokens(sizes), width, sizes.vectors, (sizes.vector_width,) * sizes.count)
        declared["kernel"] = TowerWeight(axes, fan_in=2)
    return declared


def _apply_dcn(options: TowerModuleOptions, weights: Weights, tokens: jax.Array, sizes: TowerSizes) -> jax.Array:
    crossed = tokens
    for layer in range(options.read("cross_layers")):
        mixed = multiply_by_tower(multiply_by_tower(crossed, weights[f"down_{layer}"]), weights[f"cross_{layer}"])
        mixed = mixed + weights[f"cross_bias_{layer}"][:, None].astype(tokens.dtype)
        crossed = tokens * mixed + crossed
    return crossed if all(sizes.kept) else _keep_single(multiply_by_tower(crossed, weights["kernel"]), crossed, sizes)


def _declare_wukong(options: TowerModuleOptions, sizes: TowerSizes) -> Declared:
    declared: Declared = {"lcb": TowerWeight((sizes.tokens, sizes.vectors))}
    vector_width = (sizes.vector_width,) * sizes.count
    if sizes.vector_width != sizes.width:
        declared["lcb_width"] = TowerWeight(((sizes.width,) * sizes.count, vector_width))
    if not any(sizes.fmb_vectors):
        return declared
    columns = sizes.tokens
    if options.fm_rank is not None:
        columns = (options.fm_rank,) * sizes.count
        declared["fm_projection"] = TowerWeight((sizes.tokens, columns))
    declared["fm_norm_scale"] = TowerWeight((columns, sizes.tokens), start="ones")
    declared["fm_norm_bias"] = TowerWeight((columns, sizes.tokens), start="zeros")
    inputs: tuple[tuple[int, ...], ...] = (columns, sizes.tokens)
    for index, width in enumerate(options.read("fmb_hidden")):
        made = (width,) * sizes.count
        # He's gain: a ReLU halves the mean square.
        declared[f"fmb_hidden_{index}"] = TowerWeight((*inputs, made), fan_in=len(inputs), gain=2.0)
        declared[f"fmb_hidden_bias_{index}"] = TowerWeight((made,), start="zeros")
        inputs = (made,)
    outputs, gain = (sizes.fmb_vectors, vector_width), options.read("fmb_scale") ** 2
    declared["fmb_output"] = TowerWeight((*inputs, *outputs), fan_in=len(inputs), gain=gain)
    declared["fmb_output_bias"] = TowerWeight(outputs, start="zeros")
    return declared


def _apply_wukong(options: TowerModuleOptions, weights: Weights, tokens: jax.Array, sizes: TowerSizes) -> jax.Array:
    towers, rows, count, width = tokens.shape
    # Tokens on the last axis, as in Wukong's layer: a map over them is then one flat product.
    tokens = tokens.transpose(0, 1, 3, 2)
    flat = tokens.reshape(towers, rows * width, count)
    made = multiply_by_tower(flat, weights["lcb"]).reshape(towers, rows, width, -1).transpose(0, 1, 3, 2)
    if "lcb_width" in weights:
        vectors = made.shape[2]
        made = multiply_by_tower(made.reshape(towers, rows * vectors, width), weights["lcb_width"])
        made = made.reshape(towers, rows, vectors, sizes.vector_width)
    if not any(sizes.fmb_vectors):
        return made
    left = tokens
    if options.fm_rank is not None:
        left = multiply_by_tower(flat, weights["fm_projection"]).reshape(towers, rows, width, options.fm_rank)
    values = _normalize_pairs(jnp.einsum("tbdk,tbdf->tbkf", left, tokens), weights, sizes, options.fm_rank)
    for index in range(len(options.read("fmb_hidden"))):
        bias = weights[f"fmb_hidden_bias_{index}"][:, None].astype(values.dtype)
        values = nn.relu(multiply_by_tower(values, weights[f"fmb_hidden_{index}"]) + bias)
    block = multiply_by_tower(values, weights["fmb_output"]) + weights["fmb_output_bias"][:, None].astype(values.dtype)
    # Towers with fewer interaction parts than the largest have linear vectors in these places.
    block = _zero_padding(block, sizes.fmb_vectors)
    return made + jnp.pad(block, ((0, 0), (0, 0), (0, made.shape[2] - block.shape[2]), (0, 0)))


def _normalize_pairs(pairs: jax.Array, weights: Weights, sizes: TowerSizes, rank: int | None) -> jax.Array:
    """Applies a layer norm over the pairs of each tower.

    Args:
      pairs: [T, B, K, F_max], with F_max instead of K for the full FM; zeros in the padding.
      weights: the declared weights, with scale and bias of the norm.
      sizes: sizes of these towers.
      rank: K, or None for the full FM.

    Returns:
      An array of the same shape and dtype, zeros in the padding.
    """
    columns = [rank or count for count in sizes.tokens]
    mask = np.zeros((sizes.count, 1, *pairs.shape[2:]), np.float32)
    for tower, (column, count) in enumerate(zip(columns, sizes.tokens, strict=True)):
        mask[tower, :, :column, :count] = 1
    # Barriers, as in the norm: otherwise XLA:CPU recomputes pairs and their gradient for every sum that reads them.
    return normalize(
        jax.lax.optimization_barrier(pairs.astype(jnp.float32)),
        weights["fm_norm_scale"][:, None],
        weights["fm_norm_bias"][:, None],
        axes=(2, 3),
        epsilon=FM_NORM_EPSILON,
        mask=mask,
    ).astype(pairs.dtype)


def _projected_tokens(sizes: TowerSizes) -> tuple[int, ...]:
    """Returns the number of tokens of each tower that its linear map reads: 0 if its only token is kept."""
    return tuple(0 if kept else count for count, kept in zip(sizes.tokens, sizes.kept, strict=True))


def _keep_single(made: jax.Array, tokens: jax.Array, sizes: TowerSizes) -> jax.Array:
    """Replaces the projection of kept towers by their only token; both are [T, B, ., D] with D = D_out."""
    if not any(sizes.kept):
        return made
    lone = jnp.pad(tokens[:, :, :1], ((0, 0), (0, 0), (0, made.shape[2] - 1), (0, 0)))
    return jnp.where(np.array(sizes.kept)[:, None, None, None], lone, made)


def _zero_padding(vectors: jax.Array, counts: tuple[int, ...]) -> jax.Array:
    """Sets vectors beyond each tower's count to zero, so that they get no gradient: [T, B, P_max, D_out]."""
    most = vectors.shape[2]
    if all(count == most for count in counts):
        return vectors
    mask = np.arange(most) < np.array(counts)[:, None]
    return jnp.where(mask[:, None, :, None], vectors, 0)
