"""MovieLens releases to one CSV of rating rows: the film beside each rating, a domain, and what the user did before.

Two layouts are read. *csv* (ml-latest-small, ml-latest, 20M to 32M): `ratings.csv` and `movies.csv`, plain or .gz; the
domain is the film's age when it was rated. *dat* (1M): `ratings.dat`, `movies.dat` and `users.dat`, fields between
`::`; the domain is the user's age group, as in M3oE (arXiv 2404.18465, its `run_movielens.py`).

Ours: the ages at which films change domain, by which ml-latest-small falls into near thirds; a film without a year in
its title (13 of ml-latest-small, most of them recent series) is new; clicked means rated above 3, in the history as in
the labels.
"""

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from wukong_jax.errors import UserError
from wukong_jax.files.whole_files import open_whole

Order = Literal["time", "file", "joined"]

CLICK_ABOVE = 3.0  # stars; M3oE's click. Half stars count: 3.5 is a click
HISTORY_LENGTH = 20  # films
FILM_AGES = ((4, "new"), (14, "middle"))  # up to so many years old; above: "old"
USER_AGES = {1: "under_25", 18: "under_25", 25: "25_to_34", 35: "35_up", 45: "35_up", 50: "35_up", 56: "35_up"}

_LIST_SEPARATOR = "|"
_NO_GENRES = "(no genres listed)"
_YEAR = r"\((\d{4})(?:[-\u2013]\d{0,4})?\)\s*$"  # "Heat (1995)", of a series "(2006-2007)"
_DAT_FILES = {
    "ratings": ("user_id", "movie_id", "rating", "timestamp"),
    "movies": ("movie_id", "title", "genres"),
    "users": ("user_id", "gender", "age", "occupation", "zip"),
}
_CSV_NAMES = {"userId": "user_id", "movieId": "movie_id"}
_NUMBERS = {"user_id": pl.Int64, "movie_id": pl.Int64, "rating": pl.Float64, "timestamp": pl.Int64, "age": pl.Int64}


@dataclasses.dataclass(frozen=True)
class MovieLensTables:
    """A release as it comes."""

    ratings: pl.DataFrame  # user_id, movie_id, rating, timestamp, in file order
    movies: pl.DataFrame  # movie_id, title, genres
    users: pl.DataFrame | None  # user_id, gender, age, occupation, zip; of the 1M release only


def convert_movielens(folder: str | Path, output: str | Path, order: Order | None = None) -> dict[str, int]:
    """Writes the rows of a release to a CSV file, for the schemas movielens_small and movielens_1m.

    Args:
      folder: of the release.
      output: the file to make; it must not exist.
      order: see `build_movielens_rows`; None: "time" for the csv layout, "joined" for 1M.

    Returns:
      Domain -> rows.

    Raises:
      UserError: a file that is missing, is of another layout or does not fit the others, or an output that exists.
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
    """How many rows each domain has, in the order of the domains' names."""
    counts = domains.alias("domain").value_counts().sort("domain")
    return {str(domain): int(rows) for domain, rows in counts.iter_rows()}


def read_movielens(folder: str | Path) -> MovieLensTables:
    """Reads a release of either layout; see `convert_movielens`."""
    folder = Path(folder)
    if (folder / "ratings.dat").is_file():
        tables = {name: _read_dat(folder / f"{name}.dat", columns) for name, columns in _DAT_FILES.items()}
        return MovieLensTables(**tables)
    ratings, movies = (_read_csv(folder, name) for name in ("ratings", "movies"))
    return MovieLensTables(ratings, movies, None)


def build_movielens_rows(tables: MovieLensTables, order: Order) -> pl.DataFrame:
    """Joins a release to one row a rating.

    Args:
      tables: of `read_movielens`.
      order: "time"; "file", of the ratings; or "joined", that of M3oE's file, which pandas (before 2.2) wrote after
        joining ratings, movies and users: a user's rows together, films in the order in which they first come in the
        ratings; users in that of the joined films' rows, so first those who rated the ratings' first film. Cut by
        order, "file" and "joined" both test on users who come late in the file, and those are new.

    Returns:
      user_id, movie_id, rating, timestamp; history, past_ratings and past_click_share of `build_histories`; year and
      film_age (in years; missing where the title has no year), genres (joined by "|"), first_genre, domain; of 1M also
      gender, age, occupation and zip.

    Raises:
      UserError: a rating of an unknown movie or user, or a user of an age that M3oE's groups lack.
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
    """What each rating's user had done before, at earlier seconds; ratings of one second see nothing of each other.

    Args:
      ratings: user_id, movie_id, rating and timestamp (seconds), in any order.
      length: of the history, at most; the latest films.

    Returns:
      In the order of the rows: history, the ids of the films clicked joined by "|", latest last and those of one second
      in the order of their rows; past_ratings, a count; past_click_share, of those ratings, missing where none are.
    """
    user = ratings["user_id"].rank("dense").to_numpy().astype(np.int64)
    second = ratings["timestamp"].to_numpy().astype(np.int64)
    second = second - second.min()
    first = user * (int(second.max()) + 1)  # the user's earliest possible moment, after all of the user before
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
        raise UserError(f"{paths[0]}: not readable as CSV ({str(error).splitlines()[0]})") from None
    return _as_numbers(table, _DAT_FILES[name], paths[0])


def _read_dat(path: Path, columns: tuple[str, ...]) -> pl.DataFrame:
    try:
        text = path.read_bytes().decode("latin-1")  # every byte is a letter, so accents cannot stop a release
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
    """The columns, those of `_NUMBERS` as numbers; a missing column or value is refused by its line."""
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
                f"{path}, row {row}: {column} = {value!r}: expected a value, a number where ids and ratings are"
            )
    return numbers


def _check_known(used: pl.Series, known: pl.Series, kind: str) -> None:
    if known.n_unique() != len(known):
        raise UserError(f"{kind}s: {kind} {known.filter(known.is_duplicated())[0]} is listed twice; list it once")
    unknown = used.filter(~used.is_in(known.implode()))
    if len(unknown):
        raise UserError(f"ratings: {kind} {unknown[0]} is not among the {kind}s; both files must be of one release")
