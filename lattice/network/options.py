"""A Lattice network's options, their defaults and the reasons for them."""

import dataclasses
from typing import Literal

from lattice.network.dense import Float8
from lattice.network.fusion_block import FusionOptions
from lattice.network.norms import NormKind
from lattice.network.transformer_block import TransformerOptions
from wukong_jax.errors import UserError

Untied = Literal["ffn", "fmb", "heads"]


@dataclasses.dataclass(frozen=True)
class LatticeOptions:
    """`config.model.options` of `lattice.network:build`. The paper discloses no sizes; these train on a laptop.

    *Untied weights* cost a copy per domain; where domains agree they take data from each other for nothing, so only the
    heads are untied by default. "ffn" and "fmb" are for domains whose gradients conflict
    (`wukong-jax partition_portfolios` measures it).
    """

    layers: int = 2  # L, each a transformer block (where there are sequences) and a fusion block
    sequences: tuple[str, ...] = ()  # columns read as event sequences; their pooling must be "none"
    mixed_tokens: int = 0  # tokens that the mixing network makes of the non-sequence ones; 0 = it keeps them
    dense_tokens: int = 1  # tokens made of the dense columns, if there are any
    dense_hidden: tuple[int, ...] = ()  # hidden widths on the way there
    domain_token: bool = True  # a learned token that says which domain a row is of; idle with one domain
    transformer: TransformerOptions = dataclasses.field(default_factory=TransformerOptions)
    fusion: FusionOptions = dataclasses.field(default_factory=FusionOptions)
    sequence_fusion: Literal["flattened", "pooled"] = "flattened"  # how the sequences' tokens enter the fusion block
    context_storage: bool = True  # Extended Context Storage: later layers read the tokens of earlier ones
    head_hidden: int = 64  # units of each objective's hidden layer; 0 = none
    head_dropout: float = 0.0
    embedding_dropout: float = 0.0  # of the tokens that enter the network
    untied: tuple[Untied, ...] = ("heads",)  # parts of which each domain has a copy of its own
    teacher_tokens: int = 0  # tokens made of a teacher's embedding that is joined to the rows; 0 = it is not read
    distillation_head: bool = (
        False  # heads of their own for the teacher's labels, so that its bias stays out of serving
    )
    norm: NormKind = "swish_rms"  # SwishRMSNorm, or layer norm with ReLUs
    biases: bool = False  # in linear layers
    float8: Float8 = "none"  # products in 8 bits, with a scale per tensor or per row

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        for name, least in (
            ("layers", 1),
            ("mixed_tokens", 0),
            ("dense_tokens", 1),
            ("head_hidden", 0),
            ("teacher_tokens", 0),
        ):
            if getattr(self, name) < least:
                raise UserError(f"{name} = {getattr(self, name)}: at least {least}")
        if any(width < 1 for width in self.dense_hidden):
            raise UserError(f"dense_hidden = {list(self.dense_hidden)}: every width at least 1")
        for name in ("head_dropout", "embedding_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} = {getattr(self, name)}: at least 0 and below 1")
        for name in ("sequences", "untied"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                raise UserError(f"{name} = {list(getattr(self, name))}: none twice")
        if self.head_dropout and not self.head_hidden:
            raise UserError(f"head_dropout = {self.head_dropout}: has no effect without head_hidden; leave it out")
        if not self.sequences:
            idle = {
                "transformer": self.transformer != TransformerOptions(),
                "sequence_fusion": self.sequence_fusion != "flattened",
                "untied": "ffn" in self.untied,
            }
            for name in (name for name, given in idle.items() if given):
                raise UserError(f"{name}: has no effect without sequences; name their columns or leave it out")
