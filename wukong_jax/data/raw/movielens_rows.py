"""Converts a MovieLens release to one CSV file: each rating with its film, a domain, and the user's past ratings.

Two layouts are supported. *csv* (ml-latest-small, ml-latest, 20M to 32M): `ratings.csv` and `movies.csv`, plain or
.gz; the domain is the film's age when it was rated. *dat* (1M): `ratings.dat`, `movies.dat` and `users.dat`, with
fields separated by `::`; the domain is the user's age group, as in M3oE (arXiv 2404.18465, its `run_movielens.py`).

Our own choices: the film ages that separate the domains split ml-latest-small into nearly equal thirds; a film without
a year in its title (13 in ml-latest-small, most of them recent series) counts as new; and a rating above 3 is a click,
in the history as in the labels.
"""

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from wukong_jax.errors import UserError
from wukong_jax.files.whole_files import open_whole
from wukong_jax.messages import first_line

Order = Literal["time", "file", "joined"]

CLICK_ABOVE = 3.0  # stars, as in M3oE; with half stars, 3.5 is a click
HISTORY_LENGTH = 20  # films
FILM_AGES = ((4, "new"), (14, "middle"))  # (oldest age in years, domain); older films are "old"
USER_AGES = {1: "under_25", 18: "under_25", 25: "25_to_34", 35: "35_up", 45: "35_up", 50: "35_up", 56: "35_up"}

_LIST_SEPARATOR = "|"
_NO_GENRES = "(no genres listed)"
_YEAR = r"\((\d{4})(?:[-\u2013]\d{0,4})?\)\s*$"  # "Heat (1995)"; for a series "(2006-2007)"
_DAT_FILES = {
    "ratings": ("user_id", "movie_id", "rating", "timestamp"),
    "movies": ("movie_id", "title", "genres"),
    "users": ("user_id", "gender", "age", "occupation", "zip"),
}
_CSV_NAMES = {"userId": "user_id", "movieId": "movie_id"}
_NUMBERS = {"user_id": pl.Int64, "movie_id": pl.Int64, "rating": pl.Float64, "timestamp": pl.Int64, "age": pl.Int64}


@dataclasses.dataclass(frozen=True)
class MovieLensTables:
    """The tables of a release as published."""

    ratings: pl.DataFrame  # user_id, movie_id, rating, timestamp, in file order
    movies: pl.DataFrame  # movie_id, title, genres
    users: pl.DataFrame | None  # user_id, gender, age, occupation, zip; only in the 1M release


def convert_movielens(folder: str | Path, output: str | Path, order: Order | None = None) -> dict[str, int]:
    """Writes a release's rows to a CSV file for the schemas movielens_small and movielens_1m.

    Args:
      folder: the release's folder.
      output: the file to write; it must not exist.
      order: see `build_movielens_rows`; None for "time" with the csv layout and "joined" with 1M.

    Returns:
      Number of rows per domain.

    Raises:
      UserError: an input file is missing, malformed or inconsistent with the others, or the output exists.
    """
    output = Path(output)
    if output.exists():
        raise UserError(f"output {output}: exists; remove it or choose another file")
    tables = read_movielens(folder)
    rows = build_movielens_rows(tables, order or ("time" if tables.users is None else "joined"))
    output.parent.mkdir(parents=True, exist_ok=True)
    with open_whole(output, "wb") as file:
        rows.write_csv(file)
    return count_domains(rows["domain"])


def count_domains(domains: pl.Series) -> dict[str, int]:
    """Counts the rows of each domain, in alphabetical order of the domains."""
    counts = domains.alias("domain").value_counts().sort("domain")
    return {str(domain): int(rows) for domain, rows in counts.iter_rows()}


def read_movielens(folder: str | Path) -> MovieLensTables:
    """Reads a release in either layout; see `convert_movielens`."""
    folder = Path(folder)
    if (folder / "ratings.dat").is_file():
        tables = {name: _read_dat(folder / f"{name}.dat", columns) for name, columns in _DAT_FILES.items()}
        return MovieLensTables(**tables)
    ratings, movies = (_read_csv(folder, name) for name in ("ratings", "movies"))
    return MovieLensTables(ratings, movies, None)


def build_movielens_rows(tables: MovieLensTables, order: Order) -> pl.DataFrame:
    """Joins the tables of a release to one row per rating.

    Args:
      tables: the tables from `read_movielens`.
      order: order of the rows. "time" sorts by timestamp. "file" keeps the order of the ratings file. "joined" is the
        order of M3oE's file, which pandas (before 2.2) wrote after joining ratings, movies and users: each user's rows
        are together, with films in the order of their first rating in the file; users follow in the order of the
        joined film rows, so those who rated the file's first film come first. With a split by order, "file" and
        "joined" both test on users late in the file, who are not in the training rows.

    Returns:
      user_id, movie_id, rating, timestamp; history, past_ratings and past_click_share from `build_histories`; year and
      film_age (in years; both missing if the title has no year), genres (joined by "|"), first_genre, domain; for 1M
      also gender, age, occupation and zip.

    Raises:
      UserError: a rating has an unknown movie or user, or a user's age is not one of M3oE's groups.
    """
    _check_known(tables.ratings["movie_id"], tables.movies["movie_id"], "movie")
    ratings = tables.ratings.with_row_index("position").hstack(build_histories(tables.ratings))
    rows = ratings.join(_describe_films(tables.movies), on="movie_id", how="left", maintain_order="left")
    rated = pl.from_epoch("timestamp", time_unit="s").dt.year()
    rows = rows.with_columns(film_age=pl.max_horizontal(rated - pl.col("year"), pl.lit(0)))
    rows = rows.with_columns(film_age=pl.when(pl.col("year").is_not_null()).then("film_age"))
    if tables.users is None:
        rows = rows.with_columns(domain=_film_domain())
    else:
        _check_known(tables.ratings["user_id"], tables.users["user_id"], "user")
        rows = rows.join(_group_users(tables.users), on="user_id", how="left", maintain_order="left")
    return _sort_rows(rows, order).drop("position")


def build_histories(ratings: pl.DataFrame, length: int = HISTORY_LENGTH) -> pl.DataFrame:
    """Computes each user's history before each rating; ratings of the same second are not in each other's history.

    Args:
      ratings: user_id, movie_id, rating and timestamp (seconds), in any order.
      length: maximum length of the history; the latest films are kept.

    Returns:
      In row order: history, the ids of the clicked films joined by "|", with the latest last and those of the same
      second in row order; past_ratings, the number of earlier ratings; past_click_share, the share of clicks among
      them, missing if there are none.
    """
    user = ratings["user_id"].rank("dense").to_numpy().astype(np.int64)
    second = ratings["timestamp"].to_numpy().astype(np.int64)
    second = second - second.min()
    first = user * (int(second.max()) + 1)  # the user's earliest possible moment, after all those of the previous user
    moment = first + second
    clicked = np.flatnonzero(ratings["rating"].to_numpy() > CLICK_ABOVE)
    clicked = clicked[np.argsort(moment[clicked], kind="stable")]
    films = ratings["movie_id"].cast(pl.String).gather(clicked).to_list()
    begins, ends = np.searchsorted(moment[clicked], first), np.searchsorted(moment[clicked], moment)
    in_time = np.sort(moment)
    past = np.searchsorted(in_time, moment) - np.searchsorted(in_time, first)
    pieces = zip(np.maximum(begins, ends - length), ends, strict=True)
    return pl.DataFrame(
        {
            "history": [_LIST_SEPARATOR.join(films[begin:end]) for begin, end in pieces],
            "past_ratings": past,
            "past_click_share": (ends - begins) / np.where(past, past, np.nan),
        }
    ).with_columns(pl.col("past_click_share").fill_nan(None).round(4))


def _describe_films(movies: pl.DataFrame) -> pl.DataFrame:
    genres = pl.when(pl.col("genres") != _NO_GENRES).then("genres")
    return movies.select(
        "movie_id",
        year=pl.col("title").str.extract(_YEAR).cast(pl.Int32),
        genres=genres,
        first_genre=genres.str.split(_LIST_SEPARATOR).list.first(),
    )


def _film_domain() -> pl.Expr:
    age = pl.col("film_age").fill_null(0)
    (newest, new), (middle_aged, middle) = FILM_AGES
    return (
        pl.when(age <= newest).then(pl.lit(new)).when(age <= middle_aged).then(pl.lit(middle)).otherwise(pl.lit("old"))
    )


def _group_users(users: pl.DataFrame) -> pl.DataFrame:
    foreign = users.filter(~pl.col("age").is_in(list(USER_AGES)))
    if foreign.height:
        user, age = foreign.row(0, named=True)["user_id"], foreign.row(0, named=True)["age"]
        raise UserError(f"users: age {age} of user {user}: MovieLens-1M has {', '.join(map(str, USER_AGES))}")
    return users.with_columns(domain=pl.col("age").replace_strict(USER_AGES))


def _sort_rows(rows: pl.DataFrame, order: Order) -> pl.DataFrame:
    if order == "time":
        return rows.sort("timestamp", "position")
    if order == "file":
        return rows.sort("position")
    rows = rows.with_columns(film_rank=pl.col("position").min().over("movie_id")).sort("film_rank", "position")
    rows = rows.with_row_index("by_film")
    rows = rows.with_columns(user_rank=pl.col("by_film").min().over("user_id"))
    return rows.sort("user_rank", "by_film").drop("film_rank", "by_film", "user_rank")


# --- the files ---


def _read_csv(folder: Path, name: str) -> pl.DataFrame:
    paths = [path for path in (folder / f"{name}.csv", folder / f"{name}.csv.gz") if path.is_file()]
    if not paths:
        raise UserError(
            f"{folder}: neither {name}.csv, {name}.csv.gz nor ratings.dat; give a MovieLens release's folder"
        )
    try:
        table = pl.read_csv(paths[0], infer_schema=False).rename(_CSV_NAMES, strict=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{paths[0]}: not readable as CSV ({first_line(error)})") from None
    return _as_numbers(table, _DAT_FILES[name], paths[0])


def _read_dat(path: Path, columns: tuple[str, ...]) -> pl.DataFrame:
    try:
        text = path.read_bytes().decode("latin-1")  # decodes any byte, so accents cause no error
    except OSError as error:
        raise UserError(f"{path}: cannot read ({error.strerror}); give the folder of the 1M release") from None
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    fields = pl.Series("line", lines).str.split("::")
    wrong = (fields.list.len() != len(columns)).arg_true()
    if len(wrong):
        line = int(wrong[0])
        raise UserError(f"{path}, line {line + 1}: {len(fields[line])} fields between '::': expected {len(columns)}")
    table = pl.DataFrame({column: fields.list.get(index) for index, column in enumerate(columns)})
    return _as_numbers(table, columns, path)


def _as_numbers(table: pl.DataFrame, columns: tuple[str, ...], path: Path) -> pl.DataFrame:
    """Selects columns and casts those in `_NUMBERS`; raises UserError if a column or value is missing."""
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise UserError(f"{path}: no column {missing[0]!r}; it has {', '.join(table.columns)}")
    if not table.height:
        raise UserError(f"{path}: no rows; fetch the release again")
    numbers = table.select(columns).with_columns(
        pl.col(column).cast(kind, strict=False) for column, kind in _NUMBERS.items() if column in columns
    )
    for column in columns:
        bad = numbers[column].is_null().arg_true()
        if len(bad):
            value, row = table[column][int(bad[0])], int(bad[0]) + 1
            raise UserError(
                f"{path}, row {row}: {column} = {value!r}: expected a value, and a number for ids and ratings"
            )
    return numbers


def _check_known(used: pl.Series, known: pl.Series, kind: str) -> None:
    if known.n_unique() != len(known):
        raise UserError(f"{kind}s: {kind} {known.filter(known.is_duplicated())[0]} is listed twice; list it once")
    unknown = used.filter(~used.is_in(known.implode()))
    if len(unknown):
        raise UserError(f"ratings: {kind} {unknown[0]} is not among the {kind}s; both files must be of one release")
