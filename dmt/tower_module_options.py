"""Options of the tower modules, and the number and width of the vectors that each tower sends.

The output of tower t is `P_t` vectors of width `D_out`. The compression ratio is input size over output size,
`N * D / (sum over t of P_t * D_out)`; section 4 of the paper prints the inverse, but reports ratios in this form.
"""

import dataclasses
from typing import Annotated, Any, Literal

from wukong_jax.errors import UserError
from wukong_jax.idle_options import refuse_idle
from wukong_jax.ranges import Above, AtLeast

# The options that each kind reads, with their defaults.
DEFAULTS: dict[str, dict[str, Any]] = {
    "pass_through": {},
    "dlrm": {"compression": None, "width": None, "token_vectors": 1, "tower_vectors": 0, "project_single": False},
    "dcn": {
        "compression": None,
        "width": None,
        "tower_vectors": 1,
        "cross_layers": 2,
        "cross_rank": 256,
        "project_single": False,
    },
    "wukong": {
        "compression": None,
        "width": None,
        "fmb_tokens": 1,
        "lcb_tokens": 1,
        "fm_rank": None,
        "fmb_hidden": (128,),
        "fmb_scale": 0.02,
    },
}
# Options whose values follow from `compression`.
SETTLED = {
    "dlrm": ("width", "token_vectors", "tower_vectors"),
    "dcn": ("tower_vectors",),
    "wukong": ("fmb_tokens", "lcb_tokens"),
}


@dataclasses.dataclass(frozen=True)
class TowerModuleOptions:
    """`config.model.options.module` of `dmt.model:build`; None = the kind's default (`DEFAULTS`).

    Sizes are given directly or by `compression`, which is met exactly or refused:

    - "dlrm": every token gives one vector of width D / compression (the paper's sweep: c = 1, p = 0).
    - "dcn", "wukong": the F_t * D / compression output numbers of a tower are split into vectors of `width`, by default
      the largest divisor of D that divides the output numbers of all towers. The width is therefore D if compression
      divides every F_t, and smaller otherwise.

    For "wukong", the first half of the vectors (rounded up) have an interaction part if compression is given, otherwise
    the first `fmb_tokens` vectors.
    """

    kind: Literal["pass_through", "dlrm", "dcn", "wukong"] = "pass_through"
    # input numbers of all towers divided by their output numbers; None = from the sizes below
    compression: Annotated[int | None, AtLeast(1)] = None
    width: Annotated[int | None, AtLeast(1)] = None  # D_out; None = the embeddings' D, or from compression
    token_vectors: Annotated[int | None, AtLeast(0)] = None  # "dlrm": c, vectors from each token; None = 1
    # "dlrm": p, vectors from all tokens, None = 0; "dcn": P_t, None = 1
    tower_vectors: Annotated[int | None, AtLeast(0)] = None
    cross_layers: Annotated[int | None, AtLeast(1)] = None  # "dcn": None = 2
    cross_rank: Annotated[int | None, AtLeast(1)] = None  # "dcn": None = 256
    # "dlrm", "dcn": whether a lone token that stays one vector of width D is projected
    project_single: bool | None = None
    fmb_tokens: Annotated[int | None, AtLeast(0)] = None  # "wukong": n_F, vectors with an interaction part; None = 1
    # "wukong": n_L, further vectors, which are linear in the tokens; None = 1
    lcb_tokens: Annotated[int | None, AtLeast(0)] = None
    # "wukong": K, columns of the FM's projection; None = the full FM (towers have few tokens)
    fm_rank: Annotated[int | None, AtLeast(1)] = None
    # "wukong": hidden widths of the MLP after the FM; None = 128
    fmb_hidden: Annotated[tuple[int, ...] | None, AtLeast(1)] = None
    # "wukong": initial size of the interaction part; None = 0.02, the size of the embeddings
    fmb_scale: Annotated[float | None, Above(0)] = None

    def __post_init__(self) -> None:
        """Refuses options that the kind does not read, and options without effect."""
        read = DEFAULTS[self.kind]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "kind" or value is None:
                continue
            if field.name not in read:
                known = f"it reads {', '.join(read)}" if read else "it has no options"
                raise UserError(f"{field.name} = {value}: kind {self.kind!r} does not use it ({known}); leave it out")
            if self.compression is not None and field.name in SETTLED[self.kind]:
                raise UserError(
                    f"{field.name} = {value}: compression = {self.compression} settles it for kind {self.kind!r}; "
                    "leave one of them out"
                )
        if self.kind == "dlrm" and not self.read("token_vectors") + self.read("tower_vectors"):
            raise UserError("token_vectors = 0: without tower_vectors nothing leaves the tower; give one of them")
        if self.kind == "dcn" and not self.read("tower_vectors"):
            raise UserError("tower_vectors = 0: nothing leaves the tower; give it a vector")
        if self.kind == "wukong" and not self.read("fmb_tokens") + self.read("lcb_tokens"):
            raise UserError("fmb_tokens = 0: without lcb_tokens nothing leaves the tower; give one of them")
        for name in ("fm_rank", "fmb_hidden", "fmb_scale") if self.fmb_tokens == 0 else ():
            refuse_idle(self, name, True, "where fmb_tokens is 0")

    def read(self, name: str) -> Any:
        """Returns an option's value, or the kind's default if it is None."""
        value = getattr(self, name)
        return DEFAULTS[self.kind][name] if value is None else value


@dataclasses.dataclass(frozen=True)
class TowerSizes:
    """Sizes of each tower, from the options and the towers' tokens."""

    tokens: tuple[int, ...]  # F_t
    width: int  # D
    vectors: tuple[int, ...]  # P_t
    vector_width: int  # D_out
    fmb_vectors: tuple[int, ...]  # how many of the P_t vectors have an interaction part
    kept: tuple[bool, ...]  # whether the tower's only token is sent unchanged, without a projection

    @property
    def count(self) -> int:
        """T, number of towers."""
        return len(self.tokens)

    @property
    def most_vectors(self) -> int:
        """P_max, the largest number of vectors of a tower."""
        return max(self.vectors)

    @property
    def compression(self) -> float:
        """Input numbers of the towers divided by their output numbers: N * D / sum of P_t * D_out."""
        return sum(self.tokens) * self.width / (sum(self.vectors) * self.vector_width)

    def select(self, tower: int) -> "TowerSizes":
        """Returns the sizes of a single tower."""
        one = slice(tower, tower + 1)
        return dataclasses.replace(
            self,
            tokens=self.tokens[one],
            vectors=self.vectors[one],
            fmb_vectors=self.fmb_vectors[one],
            kept=self.kept[one],
        )


def compute_sizes(options: TowerModuleOptions, tokens: tuple[int, ...], width: int) -> TowerSizes:
    """Applies the options to the towers of a model.

    Args:
      options: the module's options.
      tokens: F_t, number of tokens of each tower.
      width: D, width of the embeddings.

    Returns:
      The sizes of each tower.

    Raises:
      UserError: a compression that these towers cannot meet exactly.
    """
    if options.kind == "pass_through":
        vectors, vector_width = tokens, width
    elif options.compression is not None:
        vectors, vector_width = _divide(options, options.compression, tokens, width)
    else:
        vectors, vector_width = _count_vectors(options, tokens), options.width or width
    fmb_vectors: tuple[int, ...] = (0,) * len(tokens)
    if options.kind == "wukong":
        whole = options.compression is not None
        fmb_vectors = tuple((count + 1) // 2 if whole else options.read("fmb_tokens") for count in vectors)
    single = tuple(f == p == 1 and vector_width == width for f, p in zip(tokens, vectors, strict=True))
    if options.project_single:
        refuse_idle(options, "project_single", not any(single), "where no tower's lone token keeps its width")
    may_keep = options.kind in ("dlrm", "dcn") and not options.project_single
    kept = tuple(may_keep and lone for lone in single)
    return TowerSizes(tokens, width, vectors, vector_width, fmb_vectors, kept)


def _count_vectors(options: TowerModuleOptions, tokens: tuple[int, ...]) -> tuple[int, ...]:
    if options.kind == "dlrm":
        return tuple(options.read("token_vectors") * count + options.read("tower_vectors") for count in tokens)
    if options.kind == "dcn":
        return (options.read("tower_vectors"),) * len(tokens)
    return (options.read("fmb_tokens") + options.read("lcb_tokens"),) * len(tokens)


def _divide(
    options: TowerModuleOptions, compression: int, tokens: tuple[int, ...], width: int
) -> tuple[tuple[int, ...], int]:
    """Returns P_t and D_out that meet the compression exactly."""
    if options.kind == "dlrm":
        if width % compression:
            raise UserError(f"compression = {compression}: does not divide the width {width}; choose a divisor of it")
        return tokens, width // compression
    candidates = [w for w in range(width, 0, -1) if width % w == 0] if options.width is None else [options.width]
    for candidate in candidates:
        if all(count * width % (compression * candidate) == 0 for count in tokens):
            return tuple(count * width // (compression * candidate) for count in tokens), candidate
    sizes = ", ".join(str(count * width) for count in sorted(set(tokens)))
    of_width = "" if options.width is None else f" in vectors of width = {options.width}"
    raise UserError(
        f"compression = {compression}: towers of {sizes} numbers cannot be divided by it{of_width}; choose another "
        "compression or give the sizes outright"
    )
