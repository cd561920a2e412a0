"""Chooses the column that says when a row happened, and the split of the rows."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import polars as pl

from wukong_jax.data.drafts.column_names import names_a_time, names_another_date, split_name
from wukong_jax.data.drafts.columns import may_be_numbers
from wukong_jax.data.drafts.dates import SWAPPED, DateForm, read_dates
from wukong_jax.data.drafts.limits import Limits
from wukong_jax.data.drafts.profiles import ColumnProfile
from wukong_jax.errors import UserError
from wukong_jax.schema import Split

_DAY = frozenset(("day", "dayofmonth"))
_MONTHS = ("%m", "%B", "%b")
_FEWEST_CUTS = 3
_ROWS_OF_A_VALUE = 10


@dataclasses.dataclass(frozen=True)
class Moment:
    """When rows happened."""

    columns: tuple[str, ...]  # one, or the parts of a date
    form: DateForm
    seconds: np.ndarray  # [n] int64, of the row sample
    reason: str
    unsure: str = ""


def find_moment(profiles: Sequence[ColumnProfile]) -> Moment | None:
    """Finds the column of the time, or the columns of its parts.

    Only columns without a missing value count, and not those that are named after other dates, such as a birthday. One
    whose name says time goes before others, and earlier ones before later ones.

    Args:
      profiles: columns that may be the time; marks count as missing.
    """
    dates = [p for p in profiles if p.date_forms and p.empty == 0 and not may_be_numbers(p)]
    dates = [profile for profile in dates if not names_another_date(profile.name)]
    dates.sort(key=lambda profile: not names_a_time(profile.name))
    if dates:
        others = ", ".join(profile.name for profile in dates[1:])
        unsure = f"or is it {others}? --timestamp=NAME" if others else ""
        moment = moment_of(dates[0])
        return dataclasses.replace(moment, unsure="; ".join(filter(None, (moment.unsure, unsure))))
    return _find_parts(profiles)


def moment_of(profile: ColumnProfile) -> Moment:
    """Describes the time by a given column.

    Raises:
      UserError: its values are no dates, or some are missing.
    """
    if not profile.date_forms:
        example = profile.values["value"][0] if profile.values.height else ""
        raise UserError(
            f"--timestamp={profile.name}: no known form of dates reads all of its values, such as {example!r}; write "
            "ISO 8601 or seconds since 1970"
        )
    if profile.empty:
        raise UserError(f"--timestamp={profile.name}: {profile.empty:,} rows have no value; fill them in")
    form, unsure = profile.date_forms[0], ""
    swapped = SWAPPED.get(form.form or "")
    if swapped and DateForm(swapped) in profile.date_forms:
        unsure = f'the day may stand first: then "timestamp_format": "{swapped}"'
    seconds = read_dates(profile.sample, form)[0]
    return Moment((profile.name,), form, seconds, f"{form}, {_span(seconds)}", unsure)


def moment_of_parts(profiles: Sequence[ColumnProfile]) -> Moment | None:
    """Describes the time by a column of years, one of months (numbers or names) and one of days, if possible."""
    if len(profiles) != 3 or any(profile.empty for profile in profiles):
        return None
    joined = pl.DataFrame({str(i): p.sample.cast(pl.String) for i, p in enumerate(profiles)})
    texts = joined.select(pl.concat_str(pl.all(), separator=" ")).to_series()
    # All combinations of distinct values are tried, so that no row outside the sample can be unreadable.
    values = [[value for value in profile.values["value"]] for profile in profiles]
    if any(len(column) > 100 for column in values):
        return None
    for month in _MONTHS:
        form = DateForm(f"%Y {month} %d")
        days = [" ".join(parts) for parts in itertools.product(values[0], values[1], ["1"])]
        if all(read_dates(pl.Series(days), form)[1]) and _reads(texts, form):
            seconds = read_dates(texts, form)[0]
            names = tuple(profile.name for profile in profiles)
            return Moment(names, form, seconds, f"year, month and day, {_span(seconds)}")
    return None


def _reads(texts: pl.Series, form: DateForm) -> bool:
    return bool(read_dates(texts, form)[1].all())


def _find_parts(profiles: Sequence[ColumnProfile]) -> Moment | None:
    for year in profiles:
        words = split_name(year.name)
        facts = year.numbers
        if "year" not in words or facts is None or not 1990 <= facts.minimum <= facts.maximum <= 2050:
            continue
        at = words.index("year")
        months = [p for p in profiles if split_name(p.name) == [*words[:at], "month", *words[at + 1 :]]]
        days = [p for p in profiles if p is not year and _is_day(split_name(p.name), words[:at])]
        for month, day in itertools.product(months, days):
            moment = moment_of_parts((year, month, day))
            if moment is not None:
                return moment
    return None


def _is_day(words: Sequence[str], before: Sequence[str]) -> bool:
    return list(words[: len(before)]) == list(before) and "".join(words[len(before) :]) in _DAY


def choose_split(moment: Moment | None, limits: Limits) -> tuple[Split, str]:
    """Chooses how rows are split: by time if there is one and both cuts leave enough rows, else at random.

    Returns:
      The split, and the reason.
    """
    if moment is None:
        return Split(
            "random"
        ), 'no column says when a row happened; if the file is in order of time, "by": "order" is fairer'
    seconds = np.sort(moment.seconds)
    starts = np.searchsorted(seconds, _cuts(moment.seconds))
    shares = np.diff([0, *starts, len(seconds)]) / len(seconds)
    if shares.min() < limits.time_share or len(np.unique(seconds)) < _FEWEST_CUTS:
        return Split("random"), "too many rows of one moment for a split by time"
    return Split("time"), "the newest rows test, as in use"


def share_of_new_values(values: pl.Series, moment: Moment) -> float:
    """Returns the share of the newest tenth of the rows whose value no row of the first eight tenths has.

    Args:
      values: [n] values in the row sample. Values with fewer than 10 rows in it do not count, as they may have earlier
        rows outside it; if these are nine tenths of the newest rows, nothing is said (0).
      moment: when the rows happened.
    """
    frame = pl.DataFrame({"value": values.cast(pl.String).fill_null(""), "at": moment.seconds})
    validation, test = _cuts(moment.seconds)
    counted = frame.filter(pl.len().over("value") >= _ROWS_OF_A_VALUE)
    newest = counted.filter(pl.col("at") >= test)["value"]
    if len(newest) < 0.1 * int((moment.seconds >= test).sum()):
        return 0.0
    earlier = counted.filter(pl.col("at") < validation)["value"].unique()
    return 1.0 - float(newest.is_in(earlier.implode()).mean() or 0.0)  # type: ignore[arg-type]


def _cuts(seconds: np.ndarray) -> tuple[int, int]:
    """Returns the first seconds of validation and test rows, at the shares of `Split`'s defaults."""
    ordered = np.sort(seconds)
    last = len(ordered) - 1
    return int(ordered[int(0.8 * last)]), int(ordered[int(0.9 * last)])


def _span(seconds: np.ndarray) -> str:
    days = [str(np.datetime64(int(second), "s"))[:10] for second in (seconds.min(), seconds.max())]
    return f"{days[0]} to {days[1]}"
