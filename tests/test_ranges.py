"""Ranges of settings, read from their annotations."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated

import pytest

from wukong_jax.errors import UserError
from wukong_jax.ranges import Above, AtLeast, Between, Finite, Fraction, Inside, check_ranges
from wukong_jax.strict_mapping import build_dataclass


@dataclasses.dataclass(frozen=True)
class Inner:
    share: Annotated[float, Between(0, 1)] = 0.5


@dataclasses.dataclass(frozen=True)
class Settings:
    rate: Annotated[float, Above(0)] = 1.0
    layers: Annotated[int, AtLeast(1)] = 1
    widths: Annotated[tuple[int, ...], AtLeast(1)] = ()
    dropout: Annotated[float, Fraction()] = 0.0
    clip: Annotated[float | None, Above(0)] = None
    rungs: Annotated[tuple[float, ...], Inside(0, 1)] = ()
    weights: Mapping[str, Annotated[float, Finite(0)]] = dataclasses.field(default_factory=dict)
    inner: Inner = dataclasses.field(default_factory=Inner)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"rate": 0}, "config.rate = 0.0: must be above 0"),
        ({"rate": math.nan}, "config.rate = nan: must be above 0"),
        ({"layers": 0}, "config.layers = 0: must be at least 1"),
        ({"widths": [8, 0]}, "config.widths = [8, 0]: must be all at least 1"),
        ({"dropout": 1.0}, "config.dropout = 1.0: must be at least 0 and below 1"),
        ({"clip": -1.0}, "config.clip = -1.0: must be above 0"),
        ({"inner": {"share": 1.5}}, "config.inner.share = 1.5: must be at least 0 and at most 1"),
        ({"rungs": [0.5, 1.0]}, "config.rungs = [0.5, 1.0]: must be all above 0 and below 1"),
        ({"weights": {"a": math.inf}}, "config.weights.a = inf: must be at least 0 and finite"),
        ({"layers": "2"}, "config.layers = '2': expected int, got str"),
    ],
)
def test_value_out_of_range_is_refused_by_its_key(mapping, message):
    with pytest.raises(UserError) as error:
        build_dataclass(Settings, mapping, "config")
    assert str(error.value) == message


def test_values_in_range_are_taken():
    mapping = {"rate": 1e-9, "layers": 1, "widths": [], "dropout": 0, "clip": None, "inner": {"share": 1}}
    assert build_dataclass(Settings, mapping, "config") == Settings(1e-9, 1, (), 0.0, None, inner=Inner(1.0))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layers": 0}, "layers = 0: must be at least 1"),
        ({"clip": 0.0}, "clip = 0.0: must be above 0"),
        ({"weights": {"a": 1.0, "b": -1.0}}, "weights.b = -1.0: must be at least 0 and finite"),
    ],
)
def test_settings_that_were_built_by_the_constructor_are_checked(values, message):
    check_ranges(Settings(weights={"a": 1.0}))
    with pytest.raises(UserError) as error:
        check_ranges(Settings(**values))
    assert str(error.value) == message
