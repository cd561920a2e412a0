"""Tests id maps against a dictionary that is changed value by value."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wukong_jax.data.raw.id_map import (
    IdMapRule,
    advance_id_map,
    count_rows,
    empty_id_map,
    find_rows,
    load_id_map,
    save_id_map,
    to_vocabulary,
)
from wukong_jax.errors import UserError

VALUES = ["a", "b", "é", "", "7", "z", "aa", "B", "c", "d"]
DAYS = st.lists(st.lists(st.sampled_from(VALUES), max_size=12), min_size=1, max_size=7)
RULES = st.builds(
    IdMapRule,
    rows=st.integers(2, 6),
    admit_after=st.integers(1, 3),
    evict=st.sampled_from(["least_recent", "least_frequent"]),
    candidates=st.integers(0, 5),
)


class DictMap:
    """The slow twin: one dictionary entry a value, [sightings, last seen, row]."""

    def __init__(self, rule):
        self.rule, self.known = rule, {}

    def rank(self, value):
        sightings, last_seen, row = self.known[value]
        if self.rule.evict == "least_recent":
            return (-last_seen, row == 0, -sightings, value.encode())
        return (-sightings, -last_seen, row == 0, value.encode())

    def advance(self, values, period):
        for value in values:
            entry = self.known.setdefault(value, [0, 0, 0])
            entry[0] += 1
            entry[1] = period
        order = sorted(self.known, key=self.rank)
        winners = [value for value in order if self.known[value][0] >= self.rule.admit_after][: self.rule.rows - 1]
        used = {self.known[value][2] for value in self.known} - {0}
        lost = sorted(self.known[value][2] for value in self.known if value not in winners and self.known[value][2])
        never = [row for row in range(1, self.rule.rows) if row not in used]
        free, admitted = never + lost, []
        for value in order:
            if value not in winners:
                self.known[value][2] = 0
            elif self.known[value][2] == 0:
                self.known[value][2] = free.pop(0)
                admitted.append(self.known[value][2])
        for value in [value for value in order if value not in winners][self.rule.candidates :]:
            del self.known[value]
        return sorted(admitted), lost


def count(values):
    return pl.Series("value", values, dtype=pl.String).value_counts(name="count")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(DAYS, RULES)
def test_a_map_equals_a_dictionary(days, rule):
    ids, twin = empty_id_map(), DictMap(rule)
    for period, values in enumerate(days):
        ids, changes = advance_id_map(ids, count(values), period, rule)
        admitted, evicted = twin.advance(values, period)
        assert (changes.admitted.tolist(), changes.evicted.tolist()) == (admitted, evicted)
        found = {value: tuple(rest) for value, *rest in ids.tracked.iter_rows()}
        assert found == {value: tuple(entry) for value, entry in twin.known.items()}
        rows = find_rows(ids, pl.Series([*VALUES, None]))
        assert rows.dtype == np.int32
        assert rows.tolist() == [twin.known.get(value, [0, 0, 0])[2] for value in VALUES] + [0]
        in_order = sorted((entry[2], value, entry[0]) for value, entry in twin.known.items() if entry[2])
        vocabulary = to_vocabulary(ids)
        assert [(i + 1, v, c) for i, (v, c) in enumerate(zip(*vocabulary.__dict__.values(), strict=True))] == in_order
        assert count_rows(ids) == len(in_order)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(DAYS, RULES, st.integers(0, 6))
def test_a_saved_map_goes_on_as_if_it_had_never_been_saved(tmp_path_factory, days, rule, stop):
    path = tmp_path_factory.mktemp("map") / "folder" / "ids.parquet"
    ids = stopped = empty_id_map()
    for period, values in enumerate(days):
        ids, changes = advance_id_map(ids, count(values), period, rule)
        if period == stop:
            save_id_map(stopped, path)
            stopped = load_id_map(path)
        stopped, same = advance_id_map(stopped, count(values[::-1]), period, rule)
        assert stopped.tracked.equals(ids.tracked)
        assert [array.tolist() for array in same] == [array.tolist() for array in changes]


def test_a_damaged_map_is_told(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        load_id_map(tmp_path / "ids.parquet")
    pl.DataFrame({"value": ["a"]}).write_parquet(tmp_path / "ids.parquet")
    with pytest.raises(UserError, match="it has other columns"):
        load_id_map(tmp_path / "ids.parquet")
