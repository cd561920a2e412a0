"""Options of the Lattice network with their defaults, and the reasons for the defaults."""

import dataclasses
from typing import Annotated, Literal

from lattice.network.dense import Float8
from lattice.network.fusion_block import FusionOptions
from lattice.network.norms import NormKind
from lattice.network.transformer_block import TransformerOptions
from wukong_jax.errors import UserError
from wukong_jax.idle_options import refuse_idle
from wukong_jax.ranges import AtLeast, Fraction

Untied = Literal["ffn", "fmb", "heads"]


@dataclasses.dataclass(frozen=True)
class LatticeOptions:
    """`config.model.options` of `lattice.network:build`. The paper discloses no sizes; the defaults train on a laptop.

    *Untied weights* need a copy per domain, which learns from that domain's data only. If domains agree, this is a loss
    without a gain, so only the heads are untied by default. "ffn" and "fmb" are for domains whose gradients conflict,
    which `wukong-jax partition_portfolios` measures.
    """

    layers: Annotated[int, AtLeast(1)] = 2  # L, each a fusion block, after a transformer block if there are sequences
    sequences: tuple[str, ...] = ()  # columns read as event sequences; their pooling must be "none"
    # number of tokens to which the non-sequence tokens are mixed; 0 = not mixed
    mixed_tokens: Annotated[int, AtLeast(0)] = 0
    dense_tokens: Annotated[int, AtLeast(1)] = 1  # tokens computed from the dense columns, if there are any
    dense_hidden: Annotated[tuple[int, ...], AtLeast(1)] = ()  # hidden widths of the MLP that computes them
    domain_token: bool = True  # adds a learned token per domain, if there are several
    transformer: TransformerOptions = dataclasses.field(default_factory=TransformerOptions)
    fusion: FusionOptions = dataclasses.field(default_factory=FusionOptions)
    sequence_fusion: Literal["flattened", "pooled"] = "flattened"  # how the sequences' tokens enter the fusion block
    context_storage: bool = True  # Extended Context Storage: later layers read the tokens of earlier ones
    head_hidden: Annotated[int, AtLeast(0)] = 64  # units of each objective's hidden layer; 0 = no hidden layer
    head_dropout: Annotated[float, Fraction()] = 0.0
    embedding_dropout: Annotated[float, Fraction()] = 0.0  # of the input tokens
    untied: tuple[Untied, ...] = ("heads",)  # parts with a separate copy per domain
    # tokens computed from a teacher's embedding that is joined to the rows; 0 = not read
    teacher_tokens: Annotated[int, AtLeast(0)] = 0
    distillation_head: bool = False  # separate heads for the teacher's labels, so that its bias does not affect serving
    norm: NormKind = "swish_rms"  # SwishRMSNorm, or layer norm with ReLUs
    # of the non-sequence tokens before the first layer: each token by itself, as in the paper, or each of their numbers
    # over the rows of the batch, which keeps apart rows whose embeddings are large and small
    input_norm: Literal["token", "batch"] = "token"
    biases: bool = False  # in linear layers
    float8: Float8 = "none"  # products in 8 bits, with a scale per tensor or per row

    def __post_init__(self) -> None:
        """Refuses names given twice, and options without effect."""
        for name in ("sequences", "untied"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                raise UserError(f"{name} = {list(getattr(self, name))}: none twice")
        refuse_idle(self, "head_dropout", not self.head_hidden, "without head_hidden")
        refuse_idle(self, "context_storage", self.layers == 1, "with one layer")
        for name in ("transformer", "sequence_fusion"):
            refuse_idle(self, name, not self.sequences, "without sequences")
        refuse_idle(self.fusion, "output_activation", self.norm == "layer", "with norm 'layer'", "fusion.")
        refuse_idle(self, "untied", "ffn" in self.untied and not self.sequences, "for 'ffn' without sequences")
