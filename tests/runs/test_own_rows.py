"""Tests that rows a run prepares itself always are those of its raw files, schema and options, or are refused."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.repository import ROOT
from wukong_jax.config import DataConfig
from wukong_jax.data.raw.prepare import prepare_data
from wukong_jax.data.sources import RowSource
from wukong_jax.errors import UserError
from wukong_jax.runs import own_rows
from wukong_jax.runs.rows import open_run_data
from wukong_jax.schema import (
    CategoricalColumn,
    DenseColumn,
    LabelColumn,
    Schema,
    Source,
    Split,
    load_schema,
    schema_to_json,
)

SCHEMA = Schema(
    "made_up",
    Source("csv"),
    (LabelColumn("y"),),
    Split(by="order"),
    dense=(DenseColumn("x"),),
    categorical=(CategoricalColumn("c"),),
)


def write_csv(path, seed):
    path.parent.mkdir(exist_ok=True)
    lines = [f"{(row * 7 + seed) % 3 % 2},{row % 5 + seed / 10},c{(row + seed) % 4}" for row in range(30)]
    path.write_text("y,x,c\n" + "\n".join(lines) + "\n")


def touch(path):
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))


class Place:
    """A folder with raw files, a schema and the rows that a run made of them; the actions edit the inputs."""

    def __init__(self, folder):
        self.folder, self.rows = folder, folder / "run" / "data"
        self.path, self.options = folder / "a.csv", {}
        (folder / "run").mkdir()
        for name, seed in (("a.csv", 0), ("same.csv", 0), ("other.csv", 1), ("folder/1.csv", 0), ("folder/2.csv", 2)):
            write_csv(folder / name, seed)
        (folder / "schema.json").write_text(schema_to_json(SCHEMA))

    def config(self):
        return DataConfig("raw", self.options, path=str(self.path), schema=str(self.folder / "schema.json"))

    def start(self, saved):
        return open_run_data(self.config().fill_in_options(), self.rows, lambda text: None, saved=saved).fingerprint

    def prepare_afresh(self):
        """The slow twin: what a start in an empty folder would read."""
        fresh = self.folder / "fresh"
        shutil.rmtree(fresh, ignore_errors=True)
        schema = load_schema(self.folder / "schema.json")
        prepare_data(schema, [self.path], fresh, on_bad_row=self.options.get("on_bad_row", "stop"))
        return open_run_data(DataConfig("blocks", path=str(fresh)), fresh, print).fingerprint

    def do(self, action):
        kind, value = action
        if kind == "path":
            self.path = self.folder / value
        elif kind == "content":
            write_csv(self.folder / "a.csv", value)
        elif kind == "add":
            write_csv(self.folder / "folder" / f"{value}.csv", value)
        elif kind == "touch":
            touch(self.folder / "a.csv")
        elif kind == "options":
            self.options = {"on_bad_row": value}
        else:
            schema = dataclasses.replace(SCHEMA, dense=(DenseColumn("x", value),))
            (self.folder / "schema.json").write_text(schema_to_json(schema))


ACTIONS = st.one_of(
    st.tuples(st.just("path"), st.sampled_from(["a.csv", "same.csv", "other.csv", "folder"])),
    st.tuples(st.just("content"), st.integers(0, 2)),
    st.tuples(st.just("add"), st.integers(2, 4)),
    st.tuples(st.just("touch"), st.none()),
    st.tuples(st.just("options"), st.sampled_from(["stop", "skip"])),
    st.tuples(st.just("schema"), st.sampled_from(["none", "log1p"])),
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.lists(ACTIONS, max_size=2), min_size=1, max_size=4))
def test_before_a_run_is_saved_every_start_reads_the_inputs_as_they_are(tmp_path_factory, starts):
    place = Place(tmp_path_factory.mktemp("place"))
    place.start(saved=False)
    for actions in starts:
        for action in actions:
            place.do(action)
        assert place.start(saved=False) == place.prepare_afresh()
    assert os.listdir(place.folder / "run") == ["data"]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(ACTIONS, min_size=1, max_size=3))
def test_once_a_run_is_saved_other_inputs_are_refused_and_the_same_are_not(tmp_path_factory, actions):
    place = Place(tmp_path_factory.mktemp("place"))
    before = place.start(saved=False)
    for action in actions:
        place.do(action)
    if place.options.get("on_bad_row", "stop") == "stop" and place.prepare_afresh() == before:
        assert place.start(saved=True) == before
    else:
        with pytest.raises(UserError, match=r"config\.data\.(path|schema|options)") as error:
            place.start(saved=True)
        assert "\n" not in str(error.value)
        assert "a run was trained on the rows" in str(error.value)
    assert open_run_data(DataConfig("blocks", path=str(place.rows)), place.rows, print).fingerprint == before


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (("path", "other.csv"), r"config\.data\.path = '.*other\.csv' was '.*a\.csv'"),
        (("content", 1), r"config\.data\.path = '.*a\.csv': .*a\.csv has changed"),
        (("schema", "log1p"), r"config\.data\.schema = '.*': dense\.x\.transform = 'log1p' was 'none'"),
        (("options", "skip"), r"config\.data\.options\.on_bad_row = 'skip' was 'stop'"),
    ],
)
def test_a_refusal_names_what_changed(tmp_path, action, message):
    place = Place(tmp_path)
    place.start(saved=False)
    place.do(action)
    with pytest.raises(UserError, match=message):
        place.start(saved=True)


def test_raw_files_and_schema_that_are_gone_are_not_needed(tmp_path):
    place = Place(tmp_path)
    before = place.start(saved=False)
    (tmp_path / "a.csv").unlink()
    assert place.start(saved=False) == before
    (tmp_path / "schema.json").unlink()
    assert place.start(saved=True) == before
    place.path = tmp_path / "nowhere.csv"
    (tmp_path / "schema.json").write_text(schema_to_json(SCHEMA))
    with pytest.raises(UserError, match=r"nowhere\.csv: no such file"):
        place.start(saved=True)


def test_a_gone_file_of_several_matters_only_before_a_run_is_saved(tmp_path):
    place = Place(tmp_path)
    place.path = tmp_path / "folder"
    before = place.start(saved=False)
    (tmp_path / "folder" / "2.csv").unlink()
    assert place.start(saved=True) == before
    assert place.start(saved=False) != before


def test_rows_of_an_earlier_version_have_no_note(tmp_path):
    """They are believed if a run was trained on them, since the run's fingerprint is compared; else made again."""
    place = Place(tmp_path)
    before = place.start(saved=False)
    (place.rows / "made_of.json").unlink()
    place.do(("content", 1))
    assert place.start(saved=True) == before
    assert place.start(saved=False) == place.prepare_afresh() != before


def test_a_failed_preparation_leaves_the_rows_of_the_one_before(tmp_path):
    place = Place(tmp_path)
    before = place.start(saved=False)
    (tmp_path / "a.csv").write_text("y,x,c\n1,not a number,c\n")
    with pytest.raises(UserError, match="line 2, column 'x'"):
        place.start(saved=False)
    assert open_run_data(DataConfig("blocks", path=str(place.rows)), place.rows, print).fingerprint == before
    assert os.listdir(tmp_path / "run") == ["data"]


def test_a_generator_with_other_options_generates_again(tmp_path):
    rows = {}
    for values in (5, 6, 5):
        options = {"fields": 2, "values_per_field": values, "orders": (1,), "order_shares": (1.0,), "train_rows": 64}
        config = DataConfig("planted_clicks", options | {"validation_rows": 16, "test_rows": 16}).fill_in_options()
        found = open_run_data(config, tmp_path / "data", lambda text: None, saved=False)
        assert found.schema.categorical[0].rows == values + 1
        rows.setdefault(values, set()).add(found.fingerprint)
    assert [len(found) for found in rows.values()] == [1, 1]


_START = """
import sys
from wukong_jax.config import DataConfig
from wukong_jax.runs import own_rows
from wukong_jax.runs.rows import open_run_data

folder = Path(sys.argv[1])
prepare = own_rows._OwnRows.prepare

def prepare_and_count(self):
    with (folder / "prepared").open("a") as file:
        file.write("x")
    prepare(self)
    time.sleep(1)  # still under the lock

own_rows._OwnRows.prepare = prepare_and_count
config = DataConfig("raw", path=str(folder / "a.csv"), schema=str(folder / "schema.json")).fill_in_options()
print(open_run_data(config, folder / "run" / "data", lambda text: None, saved=False).fingerprint)
"""


def test_processes_that_prepare_the_same_rows_take_turns(tmp_path):
    """The others wait for the first one and read its rows."""
    Place(tmp_path)
    command = [sys.executable, "-c", "import time\nfrom pathlib import Path\n" + _START, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(3)]
    found = {process.communicate(timeout=120)[0] for process in processes}
    assert len(found) == 1
    assert found.pop().startswith("2:")
    assert (tmp_path / "prepared").read_text() == "x"
    assert os.listdir(tmp_path / "run") == ["data"]


def test_a_source_of_another_package_is_compared_by_its_path(tmp_path):
    made = []

    def prepare(folder):
        made.append(folder)
        shutil.copytree(tmp_path / "made", folder)

    Place(tmp_path).start(saved=False)
    shutil.copytree(tmp_path / "run" / "data", tmp_path / "made")
    source = RowSource(lambda: SCHEMA, prepare=prepare)
    for path in ("one", "one", "two"):
        config = DataConfig("elsewhere:build", path=path)
        own_rows.prepare_own_rows(config, source, tmp_path / "rows", lambda text: None, saved=False)
    assert len(made) == 2
    with pytest.raises(UserError, match=r"config\.data\.path = '.*three' was '.*two'"):
        own_rows.prepare_own_rows(
            DataConfig("elsewhere:build", path="three"), source, tmp_path / "rows", print, saved=True
        )
    assert json.loads((tmp_path / "rows" / "made_of.json").read_text())["factory"] == "elsewhere:build"
