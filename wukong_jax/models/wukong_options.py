"""Wukong's options, their defaults and the reasons for them."""

import dataclasses
from typing import Annotated, Literal

from wukong_jax.errors import UserError
from wukong_jax.idle_options import refuse_idle
from wukong_jax.ranges import Above, AtLeast, Fraction


@dataclasses.dataclass(frozen=True)
class AttentionOptions:
    """The branch that makes the FM's projection depend on the row; its sizes are our own (the paper gives none)."""

    tokens: Annotated[int, AtLeast(1)] = 8  # tokens that the input is linearly compressed to
    hidden: Annotated[tuple[int, ...], AtLeast(1)] = (128,)  # widths of the MLP's hidden layers


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

    layers: Annotated[int, AtLeast(1)] = 2  # interaction layers; l of the paper
    fmb_tokens: Annotated[int, AtLeast(1)] = 16  # n_F, tokens that a layer's factorization machine block makes
    # n_L, tokens that its linear compression block makes; 0 = no such block
    lcb_tokens: Annotated[int, AtLeast(0)] = 16
    fm: Literal["full", "static", "attentive"] = "static"  # X X^T, X (X^T Y), or X (X^T Y(X))
    rank: Annotated[int | None, AtLeast(1)] = None  # k, columns of Y; None = 24, the paper's; not for fm "full"
    attention: AttentionOptions | None = None  # for fm "attentive" only; None = its defaults
    fmb_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (256,)  # hidden widths of the MLP after the FM
    head_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (256,)  # hidden widths of the MLP that ends in the logits
    # hidden widths of the MLP of the dense columns, if there are any
    bottom_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (256,)
    dense_tokens: Annotated[int, AtLeast(1)] = 1  # tokens that it makes
    # their initial size over the dense columns', near the embeddings' own
    dense_token_scale: Annotated[float, Above(0)] = 0.02
    norm: Literal["token", "flat", "none"] = "token"  # layer norm over D, over the whole N x D, or none
    fm_norm: bool = True  # layer norm over the flattened FM, as in the paper
    norm_epsilon: Annotated[float, Above(0)] = 1e-6  # added to the variance in the layers' norms
    # the same over the FM, whose variance is the fourth power of an embedding's scale
    fm_norm_epsilon: Annotated[float, Above(0)] = 1e-12
    mlp_biases: bool = True  # biases in all MLPs
    token_biases: bool = False  # a bias per token in the linear compression block
    fmb_output_activation: Literal["none", "relu"] = "none"
    embedding_dropout: Annotated[float, Fraction()] = 0.0  # of the tokens that enter the first layer
    fmb_dropout: Annotated[float, Fraction()] = 0.0  # after each hidden layer of the FMB's MLP
    head_dropout: Annotated[float, Fraction()] = 0.0  # after each hidden layer of the head
    head_output_scale: Annotated[float, AtLeast(0)] = 0.01  # initial size of the logits over their input's
    use_fmb: bool = True  # ablations: False puts zeros in place of the block's tokens
    use_lcb: bool = True
    use_residual: bool = True

    def __post_init__(self) -> None:
        """Refuses options that others leave without an effect, and layers of nothing.

        Two kinds are exempt. `use_fmb` turns a block of a full model off, whose kind and sizes may stay. And options
        of the dense columns may stay where a data set has none.
        """
        no_hidden = not (self.use_fmb and self.fmb_hidden)
        attends = self.use_fmb and self.fm == "attentive"
        for name, idle, reason in (
            ("rank", self.fm == "full", "with fm 'full'"),
            ("attention", self.fm != "attentive", f"with fm {self.fm!r}"),
            ("norm_epsilon", self.norm == "none" and not attends, "where norm is 'none'"),
            ("fm_norm", not self.use_fmb, "without use_fmb"),
            ("fm_norm_epsilon", not (self.use_fmb and self.fm_norm), "without use_fmb and fm_norm"),
            ("fmb_output_activation", not self.use_fmb, "without use_fmb"),
            ("fmb_dropout", no_hidden, "without use_fmb and a width in fmb_hidden"),
            ("head_dropout", not self.head_hidden, "without a width in head_hidden"),
            ("use_lcb", not self.lcb_tokens, "where lcb_tokens is 0"),
            ("token_biases", not (self.use_lcb and self.lcb_tokens), "without use_lcb and lcb_tokens"),
        ):
            refuse_idle(self, name, idle, reason)
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
