"""The rules file of the Partitioner: what must not meet, what portfolios are worth, and what to do about conflicts.

    {"must_not_meet": [["domain_0", "domain_1"], ["user", "domain_2"]],
     "weights": {"shop/order": 5, "shop/click": 0.5},
     "budget_by_weight": 2.0,
     "conflict": {"split_below": -0.4, "untie_below": -0.1, "untie": ["heads"]}}

Each key may be left out.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from lattice.network.options import Untied
from lattice.portfolios.partitioner import Budget, Rule
from wukong_jax.errors import UserError
from wukong_jax.ranges import AtLeast, Between
from wukong_jax.strict_mapping import build_dataclass


@dataclasses.dataclass(frozen=True)
class ConflictRules:
    """What is done where the gradients of two parts of a group point in opposite directions; see `conflicts`."""

    split_below: Annotated[float | None, Between(-1, 1)] = None  # mean cosine below which a group is split; None: never
    untie_below: Annotated[float | None, Between(-1, 1)] = None  # mean cosine of domains below which weights are untied
    untie: tuple[Untied, ...] = ("heads",)  # parts of the network of which each domain of such a group has its own

    def __post_init__(self) -> None:
        """Checks that a threshold is given, and that untying comes before splitting."""
        if self.split_below is None and self.untie_below is None:
            raise UserError("split_below = None: give split_below, untie_below, or both")
        if self.untie_below is None and self.untie != ("heads",):
            raise UserError(f"untie = {list(self.untie)}: is not read without untie_below; leave it out")
        if not self.untie:
            raise UserError("untie = []: name a part, such as heads")
        if None not in (self.split_below, self.untie_below) and self.untie_below <= self.split_below:  # type: ignore[operator]
            raise UserError(
                f"untie_below = {self.untie_below}: must be above split_below = {self.split_below}, since a group that "
                "is split needs no untying"
            )


@dataclasses.dataclass(frozen=True)
class GroupRules:
    """The content of a rules file."""

    must_not_meet: tuple[tuple[str, ...], ...] = ()  # pairs of domains, portfolios or feature columns
    weights: Mapping[str, Annotated[float, AtLeast(0)]] = dataclasses.field(default_factory=dict)  # by portfolio
    budget_by_weight: Annotated[float | None, AtLeast(1)] = None  # model runs a row, shared by the portfolios' weights
    conflict: ConflictRules | None = None

    def __post_init__(self) -> None:
        """Checks that rules are pairs."""
        for pair in self.must_not_meet:
            if len(pair) != 2:
                raise UserError(f"must_not_meet = {list(pair)}: expected pairs of names")

    @property
    def pairs(self) -> tuple[Rule, ...]:
        """The must-not-meet rules."""
        return tuple(Rule(*pair) for pair in self.must_not_meet)

    def choose_budget(self, overall: float | None) -> Budget | None:
        """Returns the budget of a flag, or the shared one.

        Raises:
          UserError: both are given, or the budget is below 1.
        """
        if self.budget_by_weight is None:
            return None if overall is None else Budget(overall)
        if overall is not None:
            raise UserError(
                f"--budget = {overall:g}: the rules have budget_by_weight = {self.budget_by_weight:g}; leave one out"
            )
        return Budget(self.budget_by_weight, by_weight=True)

    def check_flags(self, weights: bool, gradients: bool) -> None:
        """Refuses rules that would not be read.

        Args:
          weights: whether weights are given by a flag, too.
          gradients: whether gradients will be measured.

        Raises:
          UserError: there are such.
        """
        if weights and self.weights:
            raise UserError("--weights: the rules have weights, too; leave one out")
        if self.conflict is not None and not gradients:
            raise UserError("--rules: `conflict` is not read without --workdir, a run to measure gradients; give it")


def load_rules(path: str | Path) -> GroupRules:
    """Reads a rules file.

    Raises:
      UserError: the file is missing, is not JSON, or has an unknown key or a wrong value.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--rules = {path}: {error.strerror}; give a JSON file") from None
    except ValueError:
        raise UserError(f'--rules = {path}: expected JSON, such as {{"must_not_meet": [["one", "other"]]}}') from None
    return build_dataclass(GroupRules, document, f"--rules {path}")
