"""Wukong's options with their defaults, and the reasons for the defaults."""

import dataclasses
from typing import Annotated, Literal

from wukong_jax.errors import UserError
from wukong_jax.idle_options import refuse_idle
from wukong_jax.layers.mlp import HiddenNorm
from wukong_jax.ranges import Above, AtLeast, Fraction


@dataclasses.dataclass(frozen=True)
class AttentionOptions:
    """Options of the MLP that computes the FM's projection from the row; the paper gives no sizes, these are ours."""

    tokens: Annotated[int, AtLeast(1)] = 8  # tokens that the input is linearly compressed to
    hidden: Annotated[tuple[int, ...], AtLeast(1)] = (128,)  # widths of the MLP's hidden layers


@dataclasses.dataclass(frozen=True)
class WukongOptions:
    """`config.model.options` of `wukong_jax.models.wukong:build`.

    The default sizes follow the paper's grid (16 + 16 tokens, rank 24, ReLU, one bottom MLP), with smaller widths so
    that the default trains on a laptop. Our choices where the paper gives no details:

    *Norm.* Every public implementation normalises each token over D, and the order of interactions doubles per layer,
    so deep stacks need some norm: "token" is the default. On one planted task (16 fields of 50 values, order 2 only,
    D = 16, one layer, 1.2 M rows, Adam 5e-3, embeddings of standard deviation 0.02) the excess log loss over Bayes
    was 0.021 with "token", 0.018 with "flat", 0.019 with "none" and 0.015 with no norm at all, one seed each. Another
    seed gave 0.031 for "flat", so this does not rank them. Try "flat" and "none" for shallow models.

    *Epsilons.* FM values are quadratic in the embeddings' scale s, so their variance is of the order s**4: about 1e-11
    at s = 1e-3, where the usual 1e-5 would make the block's values almost vanish at the start. The inputs of the
    layers' norm have a variance of the order s**2. On the task above, the choice made no difference beyond that of
    seeds.

    *Head.* Its last layer starts near zero, so that early steps fit the embeddings and not the noise of a random
    output layer. *Dense tokens* start at the embeddings' size; otherwise their products would dominate the FM's norm.

    *Biases.* Only the MLPs have biases: the paper's linear maps over tokens have none.
    """

    layers: Annotated[int, AtLeast(1)] = 2  # interaction layers; l of the paper
    fmb_tokens: Annotated[int, AtLeast(1)] = 16  # n_F, output tokens of a layer's factorization machine block
    # n_L, output tokens of its linear compression block; 0 = no such block
    lcb_tokens: Annotated[int, AtLeast(0)] = 16
    fm: Literal["full", "static", "attentive"] = "static"  # X X^T, X (X^T Y), or X (X^T Y(X))
    rank: Annotated[int | None, AtLeast(1)] = None  # k, columns of Y; None = 24 (the paper's); not for fm "full"
    attention: AttentionOptions | None = None  # only for fm "attentive"; None = its defaults
    fmb_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (256,)  # hidden widths of the MLP after the FM
    head_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (256,)  # hidden widths of the MLP that ends in the logits
    # hidden widths of the MLP of the dense columns, if there are any
    bottom_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (256,)
    dense_tokens: Annotated[int, AtLeast(1)] = 1  # output tokens of this MLP
    # initial size of these tokens relative to the dense columns, near that of embeddings
    dense_token_scale: Annotated[float, Above(0)] = 0.02
    norm: Literal["token", "flat", "none"] = "token"  # layer norm over D, over the whole N x D, or none
    fm_norm: bool = True  # layer norm over the flattened FM, as in the paper
    norm_epsilon: Annotated[float, Above(0)] = 1e-6  # added to the variance in the layers' norms
    # the same for the norm over the FM, whose variance is the fourth power of an embedding's scale
    fm_norm_epsilon: Annotated[float, Above(0)] = 1e-12
    mlp_biases: bool = True  # biases in all MLPs
    mlp_norm: HiddenNorm = "none"  # before each ReLU of the FMB's MLPs and of the head
    token_biases: bool = False  # a bias per token in the linear compression block
    fmb_output_activation: Literal["none", "relu"] = "none"
    embedding_dropout: Annotated[float, Fraction()] = 0.0  # of the input tokens of the first layer
    fmb_dropout: Annotated[float, Fraction()] = 0.0  # after each hidden layer of the FMB's MLP
    head_dropout: Annotated[float, Fraction()] = 0.0  # after each hidden layer of the head
    head_output_scale: Annotated[float, AtLeast(0)] = 0.01  # initial size of the logits relative to their inputs
    use_fmb: bool = True  # for ablations: False replaces the block's tokens by zeros
    use_lcb: bool = True
    use_residual: bool = True

    def __post_init__(self) -> None:
        """Refuses options without effect, and layers without any part.

        Two groups of options are exempt: the kind and sizes of the block that `use_fmb` turns off, and the options of
        the dense columns if a data set has none.
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
            ("mlp_norm", no_hidden and not self.head_hidden, "without hidden layers"),
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
        """K, number of columns of the FM's projection, for fm "static" and "attentive"."""
        return 24 if self.rank is None else self.rank

    @property
    def layer_tokens(self) -> int:
        """Number of output tokens of every layer, n_F + n_L."""
        return self.fmb_tokens + self.lcb_tokens
