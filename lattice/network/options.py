"""A Lattice network's options, their defaults and the reasons for them."""

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
    """`config.model.options` of `lattice.network:build`. The paper discloses no sizes; these train on a laptop.

    *Untied weights* cost a copy per domain; where domains agree they take data from each other for nothing, so only the
    heads are untied by default. "ffn" and "fmb" are for domains whose gradients conflict
    (`wukong-jax partition_portfolios` measures it).
    """

    layers: Annotated[int, AtLeast(1)] = 2  # L, each a transformer block (where there are sequences) and a fusion block
    sequences: tuple[str, ...] = ()  # columns read as event sequences; their pooling must be "none"
    # tokens that the mixing network makes of the non-sequence ones; 0 = it keeps them
    mixed_tokens: Annotated[int, AtLeast(0)] = 0
    dense_tokens: Annotated[int, AtLeast(1)] = 1  # tokens made of the dense columns, if there are any
    dense_hidden: Annotated[tuple[int, ...], AtLeast(1)] = ()  # hidden widths on the way there
    domain_token: bool = True  # a learned token that says which domain a row is of, where there are several
    transformer: TransformerOptions = dataclasses.field(default_factory=TransformerOptions)
    fusion: FusionOptions = dataclasses.field(default_factory=FusionOptions)
    sequence_fusion: Literal["flattened", "pooled"] = "flattened"  # how the sequences' tokens enter the fusion block
    context_storage: bool = True  # Extended Context Storage: later layers read the tokens of earlier ones
    head_hidden: Annotated[int, AtLeast(0)] = 64  # units of each objective's hidden layer; 0 = none
    head_dropout: Annotated[float, Fraction()] = 0.0
    embedding_dropout: Annotated[float, Fraction()] = 0.0  # of the tokens that enter the network
    untied: tuple[Untied, ...] = ("heads",)  # parts of which each domain has a copy of its own
    # tokens made of a teacher's embedding that is joined to the rows; 0 = it is not read
    teacher_tokens: Annotated[int, AtLeast(0)] = 0
    distillation_head: bool = (
        False  # heads of their own for the teacher's labels, so that its bias stays out of serving
    )
    norm: NormKind = "swish_rms"  # SwishRMSNorm, or layer norm with ReLUs
    biases: bool = False  # in linear layers
    float8: Float8 = "none"  # products in 8 bits, with a scale per tensor or per row

    def __post_init__(self) -> None:
        """Refuses names given twice, and options that others leave without an effect."""
        for name in ("sequences", "untied"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                raise UserError(f"{name} = {list(getattr(self, name))}: none twice")
        refuse_idle(self, "head_dropout", not self.head_hidden, "without head_hidden")
        refuse_idle(self, "context_storage", self.layers == 1, "with one layer")
        for name in ("transformer", "sequence_fusion"):
            refuse_idle(self, name, not self.sequences, "without sequences")
        refuse_idle(self, "untied", "ffn" in self.untied and not self.sequences, "for 'ffn' without sequences")
