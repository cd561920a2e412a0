"""Prints a draft: a line per column with what it becomes and why, doubts below, and notes on the whole."""

from collections.abc import Sequence

from wukong_jax.data.drafts.decisions import Decision
from wukong_jax.data.drafts.draft import Draft

_HEADER = ("column", "becomes", "values", "missing", "example", "why")
_WIDEST = 28  # characters of a name
_EXAMPLE = 20


def format_draft(draft: Draft) -> str:
    """Returns the table of a draft and its notes, to be printed."""
    rows = [_HEADER, *(_describe(decision) for decision in draft.decisions)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(_HEADER) - 1)]
    lines = []
    for row, decision in zip(rows, (None, *draft.decisions), strict=True):
        lines.append(_align(row, widths))
        if decision is not None and decision.unsure:
            lines.append(f"  unsure: {_plain(decision.unsure)}")
    return "\n".join([*lines, "", *map(_plain, draft.notes)])


def _describe(decision: Decision) -> tuple[str, ...]:
    profile = decision.profile
    values = f"{profile.distinct:,}" if profile.exact else f"about {_round(profile.distinct):,}"
    given = profile.sample.drop_nulls()
    example = "" if not len(given) else str(given[0].to_list() if profile.type == "list" else given[0])
    return (
        _cut(profile.name, _WIDEST),
        decision.kind,
        values,
        f"{profile.empty / profile.rows:.1%}" if profile.empty else "0",
        _cut(example, _EXAMPLE),
        _plain(decision.reason),
    )


def _align(row: Sequence[str], widths: Sequence[int]) -> str:
    name, kind, values, missing, example, why = row
    return (
        f"{name:<{widths[0]}}  {kind:<{widths[1]}}  {values:>{widths[2]}}  {missing:>{widths[3]}}  "
        f"{example:<{widths[4]}}  {why}"
    )


def _cut(text: str, width: int) -> str:
    text = _plain(text)
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _plain(text: str) -> str:
    """Returns a text on one line, without characters that move the cursor."""
    return "".join(character if character.isprintable() else " " for character in text)


def _round(number: int) -> int:
    """Rounds to three digits."""
    return int(float(f"{number:.3g}"))
