"""Tests that the right input files are found, in the right order and with the right split."""

import pytest

from wukong_jax.data.raw.input_files import find_input_files
from wukong_jax.data.raw.splits import TEST, TRAIN, VALIDATION
from wukong_jax.errors import UserError
from wukong_jax.schema import Source, Split

CSV = Source(format="csv")


@pytest.fixture
def folder(tmp_path):
    for name in ("day_10.csv", "day_9.csv", "day_1.csv.gz", "README.md", "other.parquet"):
        (tmp_path / name).write_text("x")
    return tmp_path


def names(pairs):
    return [(path.name, split) for path, split in pairs]


def test_folder_gives_files_of_the_format_in_number_order(folder):
    expected = [(name, TRAIN) for name in ("day_1.csv.gz", "day_9.csv", "day_10.csv")]
    assert names(find_input_files([folder], CSV, Split(by="order"))) == expected
    assert names(find_input_files([folder / "day_*"], CSV, Split(by="order"))) == expected


def test_named_files_keep_their_order(folder):
    files = [folder / "day_10.csv", folder / "day_9.csv"]
    assert [path for path, _ in find_input_files(files, CSV, Split())] == files


def test_split_by_file_matches_in_folders_and_among_names(folder):
    split = Split(by="file", train="day_[19].*", validation="day_10*", test="other*")
    expected = [("day_1.csv.gz", TRAIN), ("day_9.csv", TRAIN), ("day_10.csv", VALIDATION), ("other.parquet", TEST)]
    assert names(find_input_files([folder], CSV, split)) == expected
    assert names(find_input_files([folder / "*"], CSV, split)) == expected


@pytest.mark.parametrize(
    ("inputs", "split", "message"),
    [
        (["absent.csv"], Split(), "absent.csv: no such file"),
        (["*.txt"], Split(), "matches none"),
        (["."], Split(by="file", train="nothing*"), "split.train = 'nothing*': matches no file"),
        (["."], Split(by="file", train="day*", test="day_10*"), "which another split has"),
        (["day_9.csv", "day_*"], Split(), "named twice"),
    ],
)
def test_mistakes_are_named(folder, inputs, split, message, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(UserError) as error:
        find_input_files(inputs, CSV, split)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_folder_without_files_of_the_format_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no file that ends in .*\.csv"):
        find_input_files([tmp_path], CSV, Split())
