import json

import pytest

from wukong_jax.errors import UserError
from wukong_jax.schema import DenseColumn, load_schema, schema_to_json

MINIMAL = {
    "name": "tiny",
    "source": {"format": "csv"},
    "labels": [{"name": "click"}],
    "dense": [{"name": "age", "transform": "log1p"}],
    "categorical": [{"name": "city"}, {"name": "tags", "separator": "|", "max_length": 3}],
    "sequences": [{"name": "past", "separator": " ", "max_length": 4, "vocabulary_of": "city"}],
}


def write(tmp_path, **changes):
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(MINIMAL | changes))
    return path


def test_a_schema_survives_json(tmp_path):
    schema = load_schema(write(tmp_path))
    again = tmp_path / "again.json"
    again.write_text(schema_to_json(schema))
    assert load_schema(again) == schema


def test_slots_follow_the_columns_categorical_first(tmp_path):
    schema = load_schema(write(tmp_path))
    assert schema.slots == 1 + 3 + 4
    assert [(c.name, a, b) for c, a, b in schema.slot_ranges()] == [("city", 0, 1), ("tags", 1, 4), ("past", 4, 8)]
    assert schema.column_shapes()["ids"] == (8,)


def test_rows_of_an_unresolved_schema_are_refused(tmp_path):
    with pytest.raises(UserError, match="prepare the data"):
        load_schema(write(tmp_path)).vocabulary_rows()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lables": []}, "lables"),
        ({"labels": []}, "at least one label"),
        ({"categorical": [{"name": "city"}, {"name": "age"}]}, "'age': listed twice"),
        ({"categorical": [{"name": "city", "encoding": "hash"}]}, "needs rows >= 2"),
        ({"categorical": [{"name": "city", "max_length": 2}]}, "needs a separator"),
        ({"sequences": [{"name": "past", "separator": " ", "vocabulary_of": "nowhere"}]}, "'nowhere'"),
        ({"dense": [{"name": "age", "transform": "bucketise"}]}, "boundaries"),
        ({"dense": [{"name": "age", "transform": "bucketise", "boundaries": [2, 1]}]}, "must ascend"),
        ({"categorical": [{"name": "city", "min_count": 0}]}, r"categorical\[0\]\.min_count = 0: must be at least 1"),
        ({"categorical": [{"name": "city", "separator": "|", "max_length": 0}]}, r"max_length = 0: must be at least 1"),
        (
            {"categorical": [{"name": "city", "encoding": "hash", "rows": 2**31}]},
            r"rows = 2147483648 .*at most 2147483647",
        ),
        ({"categorical": [{"name": "city", "encoding": "hash", "rows": True}]}, "rows = True: expected int"),
        ({"categorical": [{"name": "c", "separator": "|", "max_length": 2**20 + 1}]}, "at least 1 and at most 1.*"),
        (
            {"categorical": [{"name": "city"}, {"name": "c", "separator": "|", "max_length": 2**20}]},
            "slots of all columns",
        ),
        ({"dense": [{"name": "age", "missing_value": 1e39}]}, r"dense\[0\]\.missing_value = 1e\+39: must be"),
        ({"dense": [{"name": "a", "transform": "bucketise", "boundaries": [0, 1e39]}]}, r"boundaries = .*must be all"),
        ({"labels": [{"name": "click", "threshold": -1e39}]}, r"labels\[0\]\.threshold = -1e\+39: must be"),
        ({"dense": [{"name": "age", "standard_deviation": -1.0}]}, r"standard_deviation = -1\.0: must be"),
        ({"timestamp_unit": "ms"}, "timestamp_unit = 'ms': needs a timestamp column"),
        ({"timestamp": "t", "timestamp_format": "%Y", "timestamp_unit": "ms"}, "without a timestamp_format"),
        ({"timestamp": "t", "timestamp_unit": "min"}, "timestamp_unit = 'min': not one of 's', 'ms', 'us', 'ns'"),
        ({"split": {"by": "time"}}, "timestamp"),
        ({"split": {"test_fraction": 0.95}}, "sum below 1"),
        ({"split": {"by": "file"}}, "training files"),
    ],
)
def test_a_schema_that_no_reader_could_honour_is_refused(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        load_schema(write(tmp_path, **changes))


def test_files_that_are_not_schemas_are_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.json.*built-in"):
        load_schema(tmp_path / "nothing.json")
    broken = tmp_path / "broken.json"
    broken.write_text('{"name": "x",\n oops}')
    with pytest.raises(UserError, match="line 2"):
        load_schema(broken)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1" * 5000, f"{10**400}"])
def test_numbers_that_are_not_finite_are_refused_in_one_line(tmp_path, number):
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(MINIMAL | {"dense": [{"name": "age", "missing_value": 5}]}).replace("5}", f"{number}}}"))
    with pytest.raises(UserError, match=r"schema\.json.*: (not readable .*; correct|does not fit)") as error:
        load_schema(path)
    assert len(str(error.value)) < 400
    assert "\n" not in str(error.value)


def test_a_schema_with_nan_is_never_written(tmp_path):
    schema = load_schema(write(tmp_path))
    object.__setattr__(schema.dense[0], "mean", float("nan"))
    with pytest.raises(ValueError, match="not JSON compliant"):
        schema_to_json(schema)


def test_a_schema_in_another_encoding_or_too_deep_is_one_line(tmp_path):
    path = tmp_path / "schema.json"
    path.write_bytes('{"name": "é"}'.encode("latin-1"))
    with pytest.raises(UserError, match="byte 10: not UTF-8 text"):
        load_schema(path)
    path.write_text("[" * 200_000)
    with pytest.raises(UserError, match=r"schema\.json: is nested too deeply") as error:
        load_schema(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("limits", [{"missing_value": float("nan")}, {"mean": float("inf")}])
def test_python_objects_have_the_same_limits(limits):
    with pytest.raises(UserError, match="must be"):
        DenseColumn("age", **limits)
