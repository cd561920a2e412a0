"""The Lattice network: processors, interleaved transformer and fusion blocks with a context storage, heads.

    events, others = processors(embeddings, dense columns, domain)
    each layer:  events = transformer block(events, others)
                 others = fusion block([events flattened; others], tokens in the storage)
                 storage += events, others
    logits = heads(others, domain)

It follows arXiv 2512.09200, sections 3.3.1 to 3.3.4, as far as they are known; our own choices are marked as such. The
input can be any [B, N, D], including the output of `dmt` towers.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lattice.network.dense import Dense, LayerSettings, map_tokens_in_precision
from lattice.network.fusion_block import build_fusion_block
from lattice.network.heads import Heads
from lattice.network.norms import normalise, normalise_and_activate
from lattice.network.options import LatticeOptions
from lattice.network.transformer_block import TransformerBlock
from wukong_jax.embeddings.rearrange import take_vectors
from wukong_jax.errors import UserError
from wukong_jax.idle_options import refuse_idle
from wukong_jax.layers.batch_norm import BatchNorm
from wukong_jax.layers.dropout import Dropout
from wukong_jax.layers.mlp import HIDDEN_INITIALIZER, output_initializer
from wukong_jax.layers.short_sequences import KeptTokens, join_kept, kept_length
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.outputs import Outputs
from wukong_jax.models.shape import ModelShape
from wukong_jax.strict_mapping import build_dataclass

OPTIONS = "config.model.options"
_INPUT_EPSILON = 1e-8  # a variance; embeddings may start at 1e-3


class LatticeNetwork(nn.Module):
    """The Lattice network, see the module's docstring.

    Attributes:
      options: see `LatticeOptions`.
      shape: sizes of inputs and outputs.
    """

    options: LatticeOptions
    shape: ModelShape

    @nn.compact
    def __call__(self, inputs: ModelInputs, *, train: bool) -> Outputs:
        """Computes the logits.

        Args:
          inputs: the model's inputs. Absent tokens count as zero vectors, absent events are ignored. With teacher
            tokens, extras must have "teacher_embedding" [B, d] float32.
          train: whether dropout is on (rng collection "dropout").

        Returns:
          Outputs with logits [B, O] float32 for each row's domain, and aux "backbone" [B, D * tokens] float32, the
          input of the heads, and, with a distillation head, "distilled_logits" [B, O] float32.
        """
        options, settings, domain = self.options, self.settings, inputs.domain
        dropout = Dropout(options.embedding_dropout, deterministic=not train)
        inputs = inputs._replace(embeddings=dropout(inputs.present_embeddings))
        others = self._process_others(inputs, train)
        events, present = self._process_events(inputs.embeddings, inputs.token_mask)
        stored: list[jax.Array] = []
        given: list[KeptTokens] = []
        for layer in range(options.layers):
            if events is not None:
                block = TransformerBlock(
                    options.transformer,
                    settings,
                    self._positions(),
                    "ffn" in options.untied,
                    name=f"transformer_{layer}",
                )
                events = block(events, present, others.transpose(0, 2, 1), domain)
            tokens = self._fuse(events, present, others)
            kept, kept_stored = self._find_kept(others.shape[2]), join_kept(given)
            fusion = build_fusion_block(
                options.fusion, settings, "fmb" in options.untied, f"fusion_{layer}", kept, kept_stored
            )
            if options.context_storage:
                stored.append(tokens)
                given.append(kept)
            others = fusion(tokens, stored[:-1], domain)
        features = others.reshape(others.shape[0], -1)
        aux = {"backbone": features.astype(jnp.float32)}
        if options.distillation_head:
            aux["distilled_logits"] = self._heads("distillation_heads")(features, domain, train=train)
        return Outputs(self._heads("heads")(features, domain, train=train), aux)

    @property
    def short_sequences(self) -> tuple[str, ...]:
        """Sequences whose absent last tokens can be left out, see `layers.short_sequences`; all or none.

        A layer norm makes values of zeros, and the scales of 8-bit products depend on all weights.
        """
        options = self.options
        exact = options.norm == "swish_rms" or options.sequence_fusion == "pooled"
        return options.sequences if exact and options.float8 == "none" else ()

    def _heads(self, name: str) -> Heads:
        options, settings = self.options, self.settings
        untied = "heads" in options.untied and settings.domains > 1
        return Heads(self.shape.objectives, options.head_hidden, settings, untied, options.head_dropout, name=name)

    @property
    def settings(self) -> LayerSettings:
        """The settings that all layers share."""
        options, shape = self.options, self.shape
        return LayerSettings(shape.domains, shape.dtype, options.norm, options.biases, options.float8)

    def _process_others(self, inputs: ModelInputs, train: bool) -> jax.Array:
        """Computes the non-sequence tokens, normalised over D or over the batch: [B, D, n]."""
        options, settings, width = self.options, self.settings, self.shape.width
        dense, embeddings, _, domain, extras = inputs
        parts = [take_vectors(embeddings, self._other_places()).transpose(0, 2, 1).astype(settings.dtype)]
        if self.shape.dense_features:
            hidden = dense.astype(settings.dtype)
            for index, units in enumerate(options.dense_hidden):
                layer = Dense(units, settings, kernel_init=HIDDEN_INITIALIZER, name=f"dense_{index}")
                hidden = normalise_and_activate(settings.norm, layer(hidden, domain), f"dense_{index}_norm")
            made = Dense(width * options.dense_tokens, settings, name="dense_tokens")(hidden, domain)
            parts.append(made.reshape(-1, width, options.dense_tokens))
        if options.domain_token and settings.domains > 1:
            table = self.param("domain_token", nn.initializers.normal(1.0), (settings.domains, width))
            parts.append((jax.nn.one_hot(domain, settings.domains) @ table).astype(settings.dtype)[:, :, None])
        if options.teacher_tokens:
            known = extras["teacher_embedding"].astype(settings.dtype)
            made = Dense(width * options.teacher_tokens, settings, name="teacher_tokens")(known, domain)
            parts.append(made.reshape(-1, width, options.teacher_tokens))
        # normalise before mixing: embeddings start a hundred times smaller than the tokens computed here
        tokens = jnp.concatenate(parts, axis=2)
        if options.input_norm == "batch":
            flat = tokens.reshape(tokens.shape[0], -1)
            tokens = BatchNorm(epsilon=_INPUT_EPSILON, name="input_norm")(flat, train=train).reshape(tokens.shape)
        else:
            tokens = normalise(settings.norm, tokens, "token_norm", axis=1)
        if not options.mixed_tokens:
            return tokens
        kernel = self.param("mixing", output_initializer(), (tokens.shape[2], options.mixed_tokens))
        return normalise(settings.norm, map_tokens_in_precision(tokens, kernel, settings), "mixing_norm", axis=1)

    def _process_events(self, embeddings: jax.Array, token_mask: jax.Array) -> tuple[jax.Array | None, jax.Array]:
        """Concatenates the sequences' normalised tokens, plus a learned vector per sequence: [B, L, D]."""
        lengths = self._given_lengths()
        own_places = zip(self._sequence_places(), lengths, strict=True)
        places = np.array([place for own, length in own_places for place in own[:length]], np.int32)
        present = token_mask[:, places]
        if not lengths:
            return None, present
        kinds = self.param("sequence_kind", nn.initializers.normal(0.1), (len(lengths), self.shape.width))
        kind = jnp.repeat(kinds, np.array(lengths), axis=0, total_repeat_length=sum(lengths))
        events = normalise(self.settings.norm, take_vectors(embeddings, places), "event_norm") + kind
        return (events * present[:, :, None]).astype(self.settings.dtype), present

    def _fuse(self, events: jax.Array | None, present: jax.Array, others: jax.Array) -> jax.Array:
        """Returns a fusion block's input [B, D, n]: the sequences' tokens or each sequence's mean, then the others."""
        if events is None:
            return others
        if self.options.sequence_fusion == "flattened":
            return jnp.concatenate([events.transpose(0, 2, 1), others], axis=2)
        means, first = [], 0
        for length in self._given_lengths():
            own = slice(first, first + length)
            count = jnp.maximum(present[:, own].sum(axis=1), 1.0)
            means.append(events[:, own].sum(axis=1) / count[:, None].astype(events.dtype))
            first += length
        return jnp.concatenate([jnp.stack(means, axis=2), others], axis=2)

    def _find_kept(self, others: int) -> KeptTokens:
        """Returns which tokens a fusion block is given, of the sequences' and the others."""
        flattened = self.options.sequence_fusion == "flattened"
        lengths = self._sequence_lengths() if flattened else [1] * len(self.options.sequences)
        given = self._given_lengths() if flattened else lengths
        of_sequences = [KeptTokens(longest, ((0, own),)) for longest, own in zip(lengths, given, strict=True)]
        return join_kept([*of_sequences, KeptTokens(others, ((0, others),))])

    def _sequence_places(self) -> list[list[int]]:
        """Returns the indices of each sequence's tokens among the N tokens."""
        columns = self.shape.token_columns
        return [[i for i, column in enumerate(columns) if column == name] for name in self.options.sequences]

    def _sequence_lengths(self) -> list[int]:
        return [len(places) for places in self._sequence_places()]

    def _given_lengths(self) -> list[int]:
        """Returns how many of the first tokens of each sequence may be present."""
        return [kept_length(longest) for longest in self._sequence_lengths()]

    def _positions(self) -> tuple[int, ...]:
        return tuple(position for length in self._given_lengths() for position in range(length))

    def _other_places(self) -> np.ndarray:
        taken = {place for places in self._sequence_places() for place in places}
        return np.array([place for place in range(self.shape.tokens) if place not in taken], np.int32)


def build(options: Mapping[str, Any], shape: ModelShape) -> LatticeNetwork:
    """Builds the network from a config.

    Args:
      options: keys of `LatticeOptions`.
      shape: sizes of inputs and outputs; with sequences, also the column of each token.

    Returns:
      A `LatticeNetwork`.

    Raises:
      UserError: an unknown option, a value out of range, an option without effect, or one that does not fit the shape.
    """
    built = build_dataclass(LatticeOptions, options, OPTIONS)
    for name in ("untied", "domain_token"):
        refuse_idle(built, name, shape.domains == 1, "with one domain", f"{OPTIONS}.")
    refuse_idle(built, "embedding_dropout", not shape.tokens, "without embeddings", f"{OPTIONS}.")
    heads = built.transformer.heads
    if built.sequences and shape.width % (2 * heads):
        raise UserError(
            f"{OPTIONS}.transformer.heads = {heads}: the embedding width {shape.width} must divide into as many heads "
            "of an even number of coordinates; take another number of heads or config.embeddings.width"
        )
    for name in built.sequences:
        count = shape.token_columns.count(name)
        if count < 2:
            known = "no token of its own" if not count else "one token"
            raise UserError(
                f"{OPTIONS}.sequences: column {name!r} has {known}; name a sequence column, and set "
                f'config.embeddings.fields.{name}.pooling = "none"'
            )
    if built.teacher_tokens and "teacher_embedding" not in dict(shape.extras):
        raise UserError(
            f"{OPTIONS}.teacher_tokens = {built.teacher_tokens}: no teacher's embedding is joined to the rows; set "
            'config.data.join.factory = "lattice.teacher.knowledge_transfer:build_join"'
        )
    taken = sum(shape.token_columns.count(name) for name in built.sequences)
    if taken == shape.tokens and not shape.dense_features:
        raise UserError(f"{OPTIONS}.sequences: leaves no other token; a row needs more than its sequences")
    return LatticeNetwork(built, shape)
