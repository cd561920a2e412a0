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


def write_files(folder, *files):
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x", encoding="utf-8")


def relative(pairs, folder):
    return [str(path.relative_to(folder)) for path, _ in pairs]


def test_hidden_names_are_no_data_unless_named(tmp_path):
    write_files(tmp_path, "a.csv", "._a.csv", "_SUCCESS", "_b.csv", ".c/d.csv", "_temporary/e.csv")
    for name in (tmp_path, tmp_path / "*.csv", tmp_path / "*"):
        assert relative(find_input_files([name], CSV, Split()), tmp_path) == ["a.csv"]
    assert relative(find_input_files([tmp_path / "_b.csv"], CSV, Split()), tmp_path) == ["_b.csv"]
    assert relative(find_input_files([tmp_path / "_temporary" / "*"], CSV, Split()), tmp_path) == ["_temporary/e.csv"]
    assert relative(find_input_files([tmp_path / "_*.csv"], CSV, Split()), tmp_path) == ["_b.csv"]
    split = Split(by="file", train="*.csv")
    assert relative(find_input_files([tmp_path], CSV, split), tmp_path) == ["a.csv"]


def test_a_folder_below_a_hidden_one_is_read(tmp_path):
    write_files(tmp_path, ".cache/_x/a.csv", ".cache/_x/_b.csv")
    for name in (tmp_path / ".cache" / "_x", tmp_path / ".cache" / "_x" / "*.csv"):
        assert relative(find_input_files([name], CSV, Split()), tmp_path) == [".cache/_x/a.csv"]


def test_folders_in_folders_are_read_in_number_order(tmp_path):
    files = [f"year={year}/month={month}/part-0.csv" for year in (2023, 2024) for month in (2, 9, 10)]
    write_files(tmp_path, *reversed(files), "_delta_log/0.csv", "year=2023/.tmp/0.csv", "README.md")
    (tmp_path / "year=2023" / "again").symlink_to(tmp_path)
    assert relative(find_input_files([tmp_path], CSV, Split()), tmp_path) == files


def test_files_beside_folders_of_files_are_refused(tmp_path):
    write_files(tmp_path, "a.csv", "old/b.csv")
    with pytest.raises(UserError, match=r"has a\.csv and, in a folder below, old/b\.csv; name the files or folders"):
        find_input_files([tmp_path], CSV, Split())


def test_a_compressed_file_of_the_format_in_a_folder_is_refused(tmp_path):
    write_files(tmp_path, "a.csv", "b.csv.bz2")
    with pytest.raises(UserError, match=r"b\.csv\.bz2 cannot be read; decompress it"):
        find_input_files([tmp_path], CSV, Split())


def test_a_literal_name_comes_before_a_pattern(tmp_path):
    write_files(tmp_path, "d[1]/a[1].csv", "d[1]/a1.csv", "d[1]/b*.csv", "d[1]/b2.csv", "d1/a1.csv")
    folder = tmp_path / "d[1]"
    assert relative(find_input_files([folder / "a[1].csv"], CSV, Split()), folder) == ["a[1].csv"]
    assert relative(find_input_files([folder / "a*.csv"], CSV, Split()), folder) == ["a1.csv", "a[1].csv"]
    assert relative(find_input_files([tmp_path / "d[0-1]" / "*"], CSV, Split()), tmp_path) == ["d1/a1.csv"]
    split = Split(by="file", train="a[1].csv", test="b*.csv")
    for inputs in ([folder], [folder / "a[1].csv", folder / "a1.csv", folder / "b*.csv", folder / "b2.csv"]):
        assert relative(find_input_files(inputs, CSV, split), folder) == ["a[1].csv", "b*.csv"]


def test_a_pattern_outside_the_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"split pattern '/\*\.csv'"):
        find_input_files([tmp_path], CSV, Split(by="file", train="/*.csv"))


def test_names_with_odd_digits_have_an_order(tmp_path):
    write_files(tmp_path, "²", "01", "1", "٣")
    assert len(find_input_files([tmp_path / "*"], CSV, Split())) == 4
