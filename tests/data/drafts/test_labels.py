"""Tests which values of a label mean 1, and that unclear labels are asked about in one line."""

import polars as pl
import pytest

from tests.data.drafts.draft_rows import draft_frame
from wukong_jax.data.drafts.labels import LabelHints
from wukong_jax.errors import UserError

NO_HINTS = LabelHints()


def draft_labels(values, tmp_path, hints=NO_HINTS, suffix="csv"):
    frame = pl.DataFrame({"label": values, "x": [f"x{row * 5 % 7}" for row in range(len(values))]})
    return draft_frame(frame, tmp_path / f"rows.{suffix}", labels={"label": hints}).schema.labels[0]


@pytest.mark.parametrize(
    ("values", "positive"),
    [
        (["0", "1"], ()),
        (["0.0", "1.0"], ()),
        (["-1", "1"], ()),
        (["0", "1", None], ()),
        (["0", "1", "NULL"], ()),
        (["yes", "no"], ("yes",)),
        (["Y", "N"], ("Y",)),
        (["true", "false"], ("true",)),
        (["click", "no click"], ("click",)),
        (["yes", "no", "NULL"], ("yes",)),
    ],
)
def test_plain_labels_need_no_flag(values, positive, tmp_path):
    assert draft_labels(values * 40, tmp_path).positive == positive


def test_booleans_of_parquet_are_labels(tmp_path):
    assert draft_labels([True, False] * 40, tmp_path, suffix="parquet").positive == ("true",)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["1", "1"], "in all 80 rows"),
        ([None, None], "no row has a value"),
        (["1", "2", "3", "4", "5"], "--threshold=label=3 "),
        (["-1", "0", "1"], "--threshold=label=1"),
        (["bought", "returned"], "--positive=label="),
        (["2026-01-01", "2026-01-02"], "--positive=label="),
        ([f"{row}.5" for row in range(80)], "--threshold=label="),
    ],
)
def test_unclear_labels_are_asked_about(values, message, tmp_path):
    values = (values * 80)[: max(80, len(values))]
    with pytest.raises(UserError) as error:
        draft_labels(values, tmp_path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_hints_answer(tmp_path):
    stars = [str(row % 5 + 1) for row in range(100)]
    assert draft_labels(stars, tmp_path, LabelHints(threshold=4)).threshold == 4
    assert draft_labels(["a", "b", "c"] * 40, tmp_path, LabelHints(positive=("b", "c"))).positive == ("b", "c")
    for hints, message in (
        (LabelHints(threshold=9), "the range of its values"),
        (LabelHints(threshold=1), "the range of its values"),
        (LabelHints(positive=("7",)), "no such value"),
        (LabelHints(positive=tuple("12345")), "every label is 1"),
    ):
        with pytest.raises(UserError, match=message):
            draft_labels(stars, tmp_path, hints)
    with pytest.raises(UserError, match="use --positive"):
        draft_labels(["a", "b"] * 40, tmp_path, LabelHints(threshold=1))
