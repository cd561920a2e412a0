import dataclasses
from typing import Literal

import pytest

from wukong_jax.errors import UserError
from wukong_jax.strict_mapping import build_dataclass, list_changes, to_mapping


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    kind: Literal["a", "b"] = "a"


@dataclasses.dataclass(frozen=True)
class Outer:
    count: int
    inner: Inner = dataclasses.field(default_factory=Inner)
    sizes: tuple[int, ...] = ()
    by_name: dict[str, Inner] = dataclasses.field(default_factory=dict)
    maybe: float | None = None
    on: bool = False


def test_round_trip_gives_the_same_instance():
    value = Outer(3, Inner(1.5, "b"), (1, 2), {"x": Inner()}, 2.0, True)
    assert build_dataclass(Outer, to_mapping(value), "outer") == value


def test_whole_numbers_become_floats_where_a_float_is_meant():
    value = build_dataclass(Outer, {"count": 1, "inner": {"rate": 2}, "maybe": 3}, "outer")
    assert isinstance(value.inner.rate, float)
    assert isinstance(value.maybe, float)


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({"count": 1, "cuont": 2}, ["outer.cuont = 2", "did you mean 'count'"]),
        ({}, ["outer.count", "missing"]),
        ({"count": 1.5}, ["outer.count = 1.5", "expected int"]),
        ({"count": True}, ["outer.count = True", "expected int"]),
        ({"count": 1, "on": 1}, ["outer.on = 1", "expected bool"]),
        ({"count": 1, "inner": {"kind": "c"}}, ["outer.inner.kind = 'c'", "'a', 'b'"]),
        ({"count": 1, "inner": 5}, ["outer.inner = 5", "mapping"]),
        ({"count": 1, "sizes": "12"}, ["outer.sizes = '12'", "list"]),
        ({"count": 1, "sizes": [1, "x"]}, ["outer.sizes[1] = 'x'"]),
        ({"count": 1, "by_name": {"q": {"rate": "fast"}}}, ["outer.by_name.q.rate = 'fast'"]),
    ],
)
def test_mistakes_are_named_by_their_full_key(mapping, words):
    with pytest.raises(UserError) as error:
        build_dataclass(Outer, mapping, "outer")
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ({"a": {"b": 1, "c": [1, 2]}}, {"a": {"b": 1, "c": (1, 2)}}, {}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3, "c": 2}}, {"a.b": (1, 3)}),
        ({"a": None}, {}, {}),
        ({"a": None}, {"a": {"b": 1}}, {"a.b": (None, 1)}),
        ({"a": {"b": 1}, "z": 1}, {"a": {}, "c": 2}, {"a.b": (1, None), "c": (None, 2), "z": (1, None)}),
        ({"a": {"b": 1}}, {"a": 1}, {"a": ({"b": 1}, 1)}),
    ],
)
def test_changes_are_listed_by_leaf(old, new, changes):
    assert list_changes(old, new) == changes


def test_changes_lie_below_a_given_key():
    assert list_changes({"a": 1}, {"a": 2}, "config.options") == {"config.options.a": (1, 2)}
    assert list_changes("old", "new", "config.data_name") == {"config.data_name": ("old", "new")}
