"""Wukong's options, their defaults and the reasons for them."""

import dataclasses
from typing import Literal

from wukong_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class AttentionOptions:
    """The branch that makes the FM's projection depend on the row; its sizes are our own (the paper gives none)."""

    tokens: int = 8  # tokens that the input is linearly compressed to
    hidden: tuple[int, ...] = (128,)  # widths of the MLP's hidden layers

    def __post_init__(self) -> None:
        """Refuses sizes below 1."""
        _at_least("tokens", self.tokens, 1)
        _all_positive("hidden", self.hidden)


@dataclasses.dataclass(frozen=True)
class WukongOptions:
    """`config.model.options` of `wukong_jax.models.wukong:build`.

    Sizes follow the paper's grid (16 + 16 tokens, rank 24, ReLU, one bottom MLP); widths are smaller by
    default, since the default has to train on a laptop. Where the paper is silent:

    *Norm.* Every public implementation norms each token over D, and the order of interactions doubles per layer, so
    deep stacks need some norm: "token" is the default. On one planted task (16 fields of 50 values, order 2 alone,
    D = 16, one layer, 1.2 M rows, Adam 5e-3, embeddings of standard deviation 0.02) the excess log loss over Bayes
    was 0.021 with "token", 0.018 with "flat", 0.019 with "none" and 0.015 with no norm at all, one seed each; another
    seed moved "flat" to 0.031, so this does not rank them. Try "flat" and "none" on shallow models.

    *Epsilons.* FM values are quadratic in the embeddings' scale s, so their variance goes with s**4: some 1e-11 at
    s = 1e-3, where the usual 1e-5 would silence the block at the start. The layers' own norm sees s**2. On the task
    above the choice made no difference beyond the seeds'.

    *Head.* Its last layer starts near zero, so that early steps fit the embeddings and not the noise of a random
    read-out. *Dense tokens* start at the embeddings' size, or their products would rule the FM's norm.

    *Biases* in the MLPs only: the paper's linear maps over tokens have none.
    """

    layers: int = 2  # interaction layers; l of the paper
    fmb_tokens: int = 16  # n_F, tokens that a layer's factorization machine block makes
    lcb_tokens: int = 16  # n_L, tokens that its linear compression block makes; 0 = no such block
    fm: Literal["full", "static", "attentive"] = "static"  # X X^T, X (X^T Y), or X (X^T Y(X))
    rank: int | None = None  # k, columns of Y; None = 24, the paper's; not for fm "full"
    attention: AttentionOptions | None = None  # for fm "attentive" only; None = its defaults
    fmb_hidden: tuple[int, ...] = (256,)  # hidden widths of the MLP after the FM
    head_hidden: tuple[int, ...] = (256,)  # hidden widths of the MLP that ends in the logits
    bottom_hidden: tuple[int, ...] = (256,)  # hidden widths of the MLP of the dense columns, if there are any
    dense_tokens: int = 1  # tokens that it makes
    dense_token_scale: float = 0.02  # their initial size over the dense columns', near the embeddings' own
    norm: Literal["token", "flat", "none"] = "token"  # layer norm over D, over the whole N x D, or none
    fm_norm: bool = True  # layer norm over the flattened FM, as in the paper
    norm_epsilon: float = 1e-6  # added to the variance in the layers' norms
    fm_norm_epsilon: float = 1e-12  # the same over the FM, whose variance is the fourth power of an embedding's scale
    mlp_biases: bool = True  # biases in all MLPs
    token_biases: bool = False  # a bias per token in the linear compression block
    fmb_output_activation: Literal["none", "relu"] = "none"
    embedding_dropout: float = 0.0  # of the tokens that enter the first layer
    fmb_dropout: float = 0.0  # after each hidden layer of the FMB's MLP
    head_dropout: float = 0.0  # after each hidden layer of the head
    head_output_scale: float = 0.01  # initial size of the logits over their input's
    use_fmb: bool = True  # ablations: False puts zeros in place of the block's tokens
    use_lcb: bool = True
    use_residual: bool = True

    def __post_init__(self) -> None:
        """Refuses sizes out of range and options that the others leave without an effect.

        The ablation switches are exempt: they turn a block of a full model off, and its sizes may stay.
        """
        for name in ("layers", "fmb_tokens", "dense_tokens"):
            _at_least(name, getattr(self, name), 1)
        _at_least("lcb_tokens", self.lcb_tokens, 0)
        for name in ("fmb_hidden", "head_hidden", "bottom_hidden"):
            _all_positive(name, getattr(self, name))
        for name in ("embedding_dropout", "fmb_dropout", "head_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} = {getattr(self, name)}: at least 0 and below 1")
        for name in ("norm_epsilon", "fm_norm_epsilon", "dense_token_scale"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} = {getattr(self, name)}: above 0")
        if self.head_output_scale < 0:
            raise UserError(f"head_output_scale = {self.head_output_scale}: at least 0")
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.rank is not None:
            _at_least("rank", self.rank, 1)
            if self.fm == "full":
                raise UserError(f"rank = {self.rank}: fm 'full' has no rank; leave it out or set fm to 'static'")
        if self.attention is not None and self.fm != "attentive":
            raise UserError(f"attention: has no effect with fm {self.fm!r}; leave it out or set fm to 'attentive'")
        for name, idle, why in (
            ("norm_epsilon", self.norm == "none" and self.fm != "attentive", "norm is 'none'"),
            ("fm_norm_epsilon", not self.fm_norm, "fm_norm is off"),
            ("token_biases", self.lcb_tokens == 0, "lcb_tokens is 0"),
        ):
            if idle and getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise UserError(f"{name} = {getattr(self, name)}: has no effect where {why}; leave it out")
        if not (self.use_fmb or self.use_lcb or self.use_residual):
            raise UserError("use_residual = False: with use_fmb and use_lcb off too, nothing is left of a layer")
        if not self.use_fmb and not self.use_residual and not self.lcb_tokens:
            raise UserError("lcb_tokens = 0: with use_fmb and use_residual off, nothing is left of a layer")

    @property
    def fm_rank(self) -> int:
        """K: columns of the FM's projection, for fm "static" and "attentive"."""
        return 24 if self.rank is None else self.rank

    @property
    def layer_tokens(self) -> int:
        """Tokens that every layer makes, n_F + n_L."""
        return self.fmb_tokens + self.lcb_tokens


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(f"{name} = {value}: at least {least}")


def _all_positive(name: str, widths: tuple[int, ...]) -> None:
    if any(width < 1 for width in widths):
        raise UserError(f"{name} = {list(widths)}: every width at least 1")
