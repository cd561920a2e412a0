"""Provides ranges for the declaration of settings, as in `rate: Annotated[float, Above(0)] = 1e-3`.

`strict_mapping.build_dataclass` checks them. A dataclass that is also built by its constructor calls `check_ranges` in
its `__post_init__`. The range of a tuple applies to each of its items; None is always allowed.
"""

import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Any

from wukong_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers between two limits, each of which is included or excluded."""

    low: float = -math.inf
    high: float = math.inf
    includes_low: bool = True
    includes_high: bool = True

    def __str__(self) -> str:
        """Returns the range in words."""
        low = f"{'at least' if self.includes_low else 'above'} {self.low:g}" if self.low > -math.inf else ""
        high = f"{'at most' if self.includes_high else 'below'} {self.high:g}" if self.high < math.inf else ""
        high = "finite" if self.high == math.inf and not self.includes_high else high
        return " and ".join(part for part in (low, high) if part)

    def holds(self, number: float) -> bool:
        """Returns whether a number is in the range; NaN is in no range."""
        above = number >= self.low if self.includes_low else number > self.low
        below = number <= self.high if self.includes_high else number < self.high
        return above and below

    def check(self, key: str, value: Any) -> None:
        """Checks a value, or every item of a tuple.

        Raises:
          UserError: it is out of range; the message starts with the key.
        """
        for number in value if isinstance(value, tuple) else (value,):
            if number is not None and not self.holds(number):
                shown = list(value) if isinstance(value, tuple) else value
                raise UserError(f"{key} = {shown!r}: must be {'all ' if isinstance(value, tuple) else ''}{self}")


def Above(low: float) -> Range:
    """Returns the range of numbers greater than `low`."""
    return Range(low=low, includes_low=False)


def AtLeast(low: float) -> Range:
    """Returns the range of numbers not smaller than `low`."""
    return Range(low=low)


def Between(low: float, high: float) -> Range:
    """Returns the range of numbers from `low` to `high`, both included."""
    return Range(low, high)


def Finite(low: float) -> Range:
    """Numbers not smaller than `low`, infinity left out."""
    return Range(low, includes_high=False)


def Inside(low: float, high: float) -> Range:
    """Numbers from `low` to `high`, neither included."""
    return Range(low, high, includes_low=False, includes_high=False)


def Fraction() -> Range:
    """Returns the range from 0 (included) to 1 (excluded), for example of dropout rates."""
    return Range(0.0, 1.0, includes_high=False)


def check_ranges(settings: Any) -> None:
    """Checks every field of a dataclass that has a range, and the values of mappings that have one.

    Raises:
      UserError: a value lies outside; the message starts with the field's name.
    """
    for name, hint in typing.get_type_hints(type(settings), include_extras=True).items():
        value = getattr(settings, name)
        for limit in _read_ranges(hint):
            limit.check(name, value)
        if isinstance(value, Mapping):
            for limit in _read_ranges(typing.get_args(_strip(hint))[1]):
                for key, item in value.items():
                    limit.check(f"{name}.{key}", item)


def _read_ranges(hint: Any) -> list[Range]:
    return [limit for limit in getattr(hint, "__metadata__", ()) if isinstance(limit, Range)]


def _strip(hint: Any) -> Any:
    """The type inside an `Annotated`."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
