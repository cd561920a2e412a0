import dataclasses
from pathlib import Path

import numpy as np
import pytest

from wukong_jax.data.blocks.conversion_log import (
    ConversionLog,
    build_conversion_log,
    load_conversion_log,
    save_conversion_log,
)
from wukong_jax.errors import UserError


def make_log(conversions: list[tuple[int, int, int]]) -> ConversionLog:
    """Builds a log from (impression, objective, timestamp) tuples in the given order."""
    columns = np.array(conversions, np.int64).reshape(-1, 3).T
    return ConversionLog(columns[0], columns[1].astype(np.int32), columns[2])


def read_back(log: ConversionLog) -> list[tuple[int, int, int]]:
    return list(zip(log.impression.tolist(), log.objective.tolist(), log.timestamp.tolist(), strict=True))


@pytest.mark.parametrize("conversions", [[], [(7, 1, 100)], [(7, 1, 100), (2, 0, 100), (0, 1, 2**40)]])
def test_a_saved_log_loads_the_same(conversions: list, tmp_path: Path) -> None:
    path = tmp_path / "conversions.npz"
    save_conversion_log(make_log(conversions), path)
    loaded = load_conversion_log(path)
    assert read_back(loaded) == conversions
    assert len(loaded) == len(conversions)
    dtypes = (loaded.impression.dtype, loaded.objective.dtype, loaded.timestamp.dtype)
    assert dtypes == (np.int64, np.int32, np.int64)
    assert [file.name for file in tmp_path.iterdir()] == ["conversions.npz"]


def test_building_orders_by_second_then_impression_then_objective() -> None:
    generator = np.random.default_rng(0)
    columns = generator.integers(0, 5, (3, 200))
    log = build_conversion_log(*columns)
    expected = sorted((second, row, objective) for row, objective, second in columns.T.tolist())
    assert [(second, row, objective) for row, objective, second in read_back(log)] == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timestamp": np.array([5, 4])}, r"timestamp\[1\] = 4: earlier than the one before it \(5\); sort"),
        (
            {"timestamp": np.array([2**63 - 1, -(2**63)])},
            r"timestamp\[1\] = -9223372036854775808: earlier",
        ),
        ({"impression": np.array([0, -3])}, r"impression\[1\] = -3: must be at least 0"),
        ({"objective": np.array([-1, 0], np.int32)}, r"objective\[0\] = -1: must be at least 0"),
        ({"objective": np.array([0, 0])}, r"objective of a conversion log: int64\[2\], must be int32\[2\]"),
        ({"impression": np.array([0, 1, 2])}, r"impression of a conversion log: int64\[3\], must be int64\[2\]"),
        ({"impression": np.array([[0], [1]])}, r"impression of a conversion log: int64\[2, 1\], must be int64\[2\]"),
    ],
)
def test_what_is_no_log_is_refused_by_name(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(make_log([(0, 0, 1), (1, 0, 2)]), **change)


@pytest.mark.parametrize("damage", ["cut", "text", "other_arrays", "one_array", "objects", "unsorted"])
def test_a_damaged_file_is_refused_in_one_line(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "conversions.npz"
    save_conversion_log(make_log([(0, 0, 1), (1, 0, 2)]), path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "text":
        path.write_text("impression,objective,timestamp\n")
    elif damage == "other_arrays":
        np.savez(path, impression=np.zeros(1, np.int64))
    elif damage == "one_array":
        np.save(path.open("wb"), np.zeros(3))
    elif damage == "objects":
        np.savez(path, **dict.fromkeys(("impression", "objective", "timestamp"), np.array([{}])))
    else:
        zeros = np.zeros(2, np.int64)
        np.savez(path, impression=zeros, objective=zeros.astype(np.int32), timestamp=np.array([2, 1]))
    with pytest.raises(UserError, match=r"conversions\.npz") as caught:
        load_conversion_log(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.npz: no such file"):
        load_conversion_log(tmp_path / "nowhere.npz")


def test_a_folder_that_is_not_there_is_named_on_saving(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        save_conversion_log(make_log([]), tmp_path / "nowhere" / "conversions.npz")


def test_a_failed_save_keeps_the_older_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "conversions.npz"
    save_conversion_log(make_log([(3, 0, 9)]), path)

    def fail(*arguments: object, **arrays: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(UserError, match="No space left"):
        save_conversion_log(make_log([]), path)
    assert read_back(load_conversion_log(path)) == [(3, 0, 9)]
    assert [file.name for file in tmp_path.iterdir()] == ["conversions.npz"]
