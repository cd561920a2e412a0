"""Provides the model with towers: a module for the tokens of each tower, then any dense model over their outputs."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dmt.tower_module_options import TowerModuleOptions, TowerSizes, compute_sizes
from dmt.tower_modules import TowerModules
from dmt.towers import TowerLayout, build_tower_layout, load_towers, stride_towers
from wukong_jax.embeddings.rearrange import take_vectors
from wukong_jax.errors import UserError
from wukong_jax.factories import load_factory
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.outputs import Outputs
from wukong_jax.models.shape import ModelShape
from wukong_jax.strict_mapping import build_dataclass

OPTIONS = "config.model.options"


@dataclasses.dataclass(frozen=True)
class TowerModelOptions:
    """`config.model.options` of `dmt.model:build`."""

    towers: Any  # number of towers (of strided columns), a list of lists of columns, or the path of a towers.json
    module: TowerModuleOptions = dataclasses.field(default_factory=TowerModuleOptions)
    over: str = "wukong_jax.models.wukong:build"  # factory of the model over the towers' outputs, "module:function"
    over_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # options of that model


class TowerModel(nn.Module):
    """Tower modules, with weights under "towers", and a dense model over their outputs, with weights under "over".

    It can be called in two ways, which share weights and agree up to rounding. `__call__` runs the whole model where
    all embeddings of a batch are available. `compress` and `finish` are its two halves, for an exchange that runs the
    tower modules on the towers' hosts and sends their outputs.

    Attributes:
      towers: tokens of each tower.
      module: options of the tower modules.
      over: dense model over their outputs.
      shape: sizes of the whole model.
    """

    towers: TowerLayout
    module: TowerModuleOptions
    over: nn.Module
    shape: ModelShape

    def setup(self) -> None:
        """Creates the tower modules."""
        if self.compresses:
            self.tower_modules = TowerModules(self.module, self.sizes, self.shape.dtype, name="towers")

    @property
    def compresses(self) -> bool:
        """Whether there are tower modules; if not, an exchange may send embeddings unchanged."""
        return self.module.kind != "pass_through"

    @property
    def sizes(self) -> TowerSizes:
        """Sizes of the input and output of each tower."""
        return compute_sizes(self.module, self.towers.sizes, self.shape.width)

    @property
    def compression(self) -> float:
        """Compression ratio, the size of inputs over that of outputs without padding: N * D / sum of P_t * D_out."""
        return self.sizes.compression

    def compress(self, tokens: jax.Array) -> jax.Array:
        """Applies the tower modules on the towers' hosts.

        Args:
          tokens: [T, B, F_max, D] float32, zeros in the padding; T may be sharded over the mesh's hosts.

        Returns:
          [T, B, P_max, D_out] float32, zeros in the padding.
        """
        return self.tower_modules(tokens) if self.compresses else tokens

    def finish(
        self,
        compressed: jax.Array,
        dense: jax.Array,
        domain: jax.Array,
        extras: Mapping[str, jax.Array],
        *,
        train: bool,
    ) -> Outputs:
        """Runs the dense model on the outputs of the towers.

        Args:
          compressed: [B, T, P_max, D_out] float32, results of `compress`; padding is dropped here.
          dense: [B, F_dense] float32.
          domain: [B] int32.
          extras: joined extras by name.
          train: whether dropout is on (rng collection "dropout").

        Returns:
          Outputs with logits [B, O] float32.
        """
        flat = compressed.reshape(compressed.shape[0], -1, compressed.shape[-1])
        vectors = take_vectors(flat, self._vector_places())
        present = jnp.ones(vectors.shape[:2], jnp.float32)
        return self.over(ModelInputs(dense, vectors, present, domain, extras), train=train)

    def __call__(self, inputs: ModelInputs, *, train: bool) -> Outputs:
        """Computes the logits from embeddings in the schema's order, tower by tower, without padding.

        Args:
          inputs: inputs of the model; absent tokens are zero vectors in their tower, and all outputs of towers count as
            present.
          train: whether dropout is on (rng collection "dropout").

        Returns:
          Outputs with logits [B, O] float32.
        """
        if not self.compresses:
            return self.over(inputs, train=train)
        order = np.concatenate([np.array(tokens) for tokens in self.towers.tokens])
        tokens = take_vectors(inputs.present_embeddings, order)
        vectors, first = [], 0
        for tower, size in enumerate(self.towers.sizes):
            vectors.append(self.tower_modules.compress_tower(tower, tokens[:, first : first + size]))
            first += size
        sent = jnp.concatenate(vectors, axis=1)
        present = jnp.ones(sent.shape[:2], jnp.float32)
        return self.over(inputs._replace(embeddings=sent, token_mask=present), train=train)

    def _vector_places(self) -> np.ndarray:
        """Returns positions of the dense model's inputs among T * P_max; without tower modules, in schema order."""
        sizes = self.sizes
        places = [tower * sizes.most_vectors + np.arange(count) for tower, count in enumerate(sizes.vectors)]
        flat = np.concatenate(places).astype(np.int32)
        if self.compresses:
            return flat
        return flat[np.argsort(np.concatenate([np.array(tokens) for tokens in self.towers.tokens]))]


def resolve_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces the path of a `towers.json` in the options by the towers, so that the run does not depend on the file.

    Raises:
      UserError: the file is missing or holds no towers.
    """
    towers = options.get("towers")
    if not isinstance(towers, str):
        return dict(options)
    return {**options, "towers": _with_prefix(load_towers, towers)}


def build(options: Mapping[str, Any], shape: ModelShape) -> TowerModel:
    """Builds the model from a config.

    Args:
      options: keys of `TowerModelOptions`.
      shape: sizes of inputs and outputs, with the column of each token.

    Returns:
      A `TowerModel`; the tokens of its dense model are the outputs of the towers, with their width.

    Raises:
      UserError: an option is unknown, towers do not match the columns, a compression is impossible, or the dense model
        rejects its options.
    """
    built = build_dataclass(TowerModelOptions, options, OPTIONS)
    if len(shape.token_columns) != shape.tokens or not shape.tokens:
        raise UserError(f"{OPTIONS}.towers: the data has no categorical columns to put in towers; use the model alone")
    towers = _build_layout(built.towers, shape)
    try:
        sizes = compute_sizes(built.module, towers.sizes, shape.width)
    except UserError as error:
        raise UserError(f"{OPTIONS}.module.{error}") from None
    over_shape = shape
    if built.module.kind != "pass_through":
        over_shape = dataclasses.replace(shape, tokens=sum(sizes.vectors), width=sizes.vector_width, token_columns=())
    factory = load_factory(f"{OPTIONS}.over", built.over)
    try:
        over = factory(built.over_options, over_shape)
    except UserError as error:
        # The factory names its options as those of `config.model`.
        raise UserError(str(error).replace(f"{OPTIONS}.", f"{OPTIONS}.over_options.")) from None
    return TowerModel(towers, built.module, over, shape)


def _build_layout(towers: Any, shape: ModelShape) -> TowerLayout:
    """Reads the option `towers` in any of its forms."""
    return _with_prefix(_read_towers, towers, shape)


def _read_towers(towers: Any, shape: ModelShape) -> TowerLayout:
    if isinstance(towers, int) and not isinstance(towers, bool):
        columns = [column for column in dict.fromkeys(shape.token_columns) if column]
        return build_tower_layout(shape.token_columns, stride_towers(columns, towers))
    if isinstance(towers, str):
        return build_tower_layout(shape.token_columns, load_towers(towers))
    if not isinstance(towers, list | tuple) or not all(isinstance(tower, list | tuple) for tower in towers):
        raise UserError(
            f"towers = {towers!r}: a number of towers, a list of lists of columns, or the path of a towers.json"
        )
    return build_tower_layout(shape.token_columns, towers)


def _with_prefix(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function and prefixes its errors that begin with the option's name by the full key."""
    try:
        return function(*arguments)
    except UserError as error:
        message = str(error)
        raise UserError(f"{OPTIONS}.{message}" if message.startswith("towers") else message) from None
