"""Shortens exceptions and lists for messages of one line."""

from collections.abc import Sequence

_CHARACTERS = 200  # of an exception's text behind its type


def first_line(error: BaseException) -> str:
    """Returns the first line of an exception's text; the name of its type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def describe_error(error: BaseException) -> str:
    """Returns the name of an exception's type, and the first line of its text, shortened, if it has one."""
    name = type(error).__name__
    return f"{name}: {first_line(error)[:_CHARACTERS]}" if str(error).strip() else name


def join_some(texts: Sequence[str], shown: int) -> str:
    """Joins texts with commas; those after the first `shown` are only counted."""
    more = f" and {len(texts) - shown} more" if len(texts) > shown else ""
    return ", ".join(texts[:shown]) + more
