"""Tests of texts that are shortened for messages of one line."""

import pytest

from wukong_jax.messages import describe_error, first_line, join_some


@pytest.mark.parametrize(
    ("text", "line", "described"),
    [
        ("", "ValueError", "ValueError"),
        ("\n", "ValueError", "ValueError"),
        ("\n one\r\ntwo", "one", "ValueError: one"),
        ("x" * 300, "x" * 300, f"ValueError: {'x' * 200}"),
    ],
)
def test_an_exception_is_described_by_its_first_line(text, line, described):
    assert first_line(ValueError(text)) == line
    assert describe_error(ValueError(text)) == described


@pytest.mark.parametrize(
    ("shown", "joined"), [(1, "a and 2 more"), (2, "a, b and 1 more"), (3, "a, b, c"), (4, "a, b, c")]
)
def test_texts_that_are_not_shown_are_counted(shown, joined):
    assert join_some(["a", "b", "c"], shown) == joined
