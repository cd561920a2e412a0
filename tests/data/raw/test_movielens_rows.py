"""Tests MovieLens rows: histories without future events, orders, domains, broken files; and the real release."""

import datetime
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from tests.repository import ROOT as REPOSITORY
from wukong_jax.data.blocks.row_blocks import open_row_blocks
from wukong_jax.data.raw.builtin_schemas import load_builtin_schema
from wukong_jax.data.raw.movielens_rows import (
    MovieLensTables,
    build_histories,
    build_movielens_rows,
    convert_movielens,
    read_movielens,
)
from wukong_jax.data.raw.prepare import prepare_data
from wukong_jax.errors import UserError
from wukong_jax.schema import load_schema


def write_lines(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="latin-1")


def read_rows(directory, split):
    """Returns the arrays of a split's first block, with its ids as a mapping from column to [rows, slots]."""
    schema = load_schema(directory / "schema.json")
    block = open_row_blocks(directory, split).read(0)
    return block, {column.name: block["ids"][:, start:stop] for column, start, stop in schema.slot_ranges()}


def twin_histories(rows, length):
    """Computes the histories of (user, movie, rating, second) rows with plain loops."""
    histories = []
    for user, _, _, second in rows:
        past = [row for row in rows if row[0] == user and row[3] < second]
        clicks = [str(row[1]) for row in sorted(past, key=lambda row: row[3]) if row[2] > 3]
        share = round(len(clicks) / len(past), 4) if past else None
        histories.append(("|".join(clicks[-length:]), len(past), share))
    return histories


def test_histories_equal_the_slow_twin_with_many_ties():
    rng = np.random.default_rng(0)
    rows = [(int(rng.integers(4)) * 7, i, float(rng.integers(1, 11)) / 2, int(rng.integers(9))) for i in range(120)]
    frame = pl.DataFrame(rows, schema=["user_id", "movie_id", "rating", "timestamp"], orient="row")
    assert build_histories(frame, length=3).rows() == twin_histories(rows, 3)
    whole = build_histories(frame, length=1000)["history"].to_list()
    assert whole == [history for history, _, _ in twin_histories(rows, 1000)]


def test_histories_do_not_see_the_same_second_or_later():
    columns = {"user_id": [1, 1, 1, 2], "movie_id": [10, 11, 12, 10], "rating": [5.0, 3.5, 4.0, 5.0]}
    frame = pl.DataFrame(columns | {"timestamp": [100, 100, 101, 5000]})
    built = build_histories(frame)
    assert built["history"].to_list() == ["", "", "10|11", ""]  # 3.5 stars are a click
    assert built["past_ratings"].to_list() == [0, 0, 2, 0]
    assert built["past_click_share"].to_list() == [None, None, 1.0, None]


def write_small(folder):
    year = [int(datetime.datetime(year, 6, 1, tzinfo=datetime.UTC).timestamp()) for year in range(1990, 2020)]
    ratings = [[2, 7, 4.5, year[10]], [2, 8, 3.0, year[10]], [1, 7, 3.5, year[20]], [1, 9, 5.0, year[20]]]
    ratings += [[1, 8, 0.5, year[2]], [2, 10, 4.0, year[29]]]
    write_lines(folder / "ratings.csv", "userId,movieId,rating,timestamp", *(",".join(map(str, r)) for r in ratings))
    films = ['7,"Nets, The (1996) ",Action|Crime', "8,Early (1994),(no genres listed)"]
    films += ["9,Saga (2006\u20132007),Drama", "10,Series,Comedy"]
    (folder / "movies.csv").write_text("\n".join(["movieId,title,genres", *films]) + "\n")


def test_movielens_small_rows(tmp_path):
    write_small(tmp_path)
    counts = convert_movielens(tmp_path, tmp_path / "rows.csv")
    assert counts == {"middle": 2, "new": 4}
    rows = pl.read_csv(tmp_path / "rows.csv")
    assert rows["movie_id"].to_list() == [8, 7, 8, 7, 9, 10]  # by time, the file's order within a second
    assert rows["year"].to_list() == [1994, 1996, 1994, 1996, 2006, None]
    assert rows["film_age"].to_list() == [0, 4, 6, 14, 4, None]  # rated two years before its year: 0
    assert rows["domain"].to_list() == ["new", "new", "middle", "middle", "new", "new"]
    assert rows["genres"].to_list() == [None, "Action|Crime", None, "Action|Crime", "Drama", "Comedy"]
    assert rows["first_genre"].to_list() == [None, "Action", None, "Action", "Drama", "Comedy"]
    assert [history or "" for history in rows["history"]] == ["", "", "", "", "", "7"]
    with pytest.raises(UserError, match=r"rows\.csv: exists"):
        convert_movielens(tmp_path, tmp_path / "rows.csv")


def test_movielens_small_rows_become_blocks(tmp_path):
    rated = 20
    seconds = [946_684_800 + 100 * i for i in range(rated)]
    lines = [f"{1 + i % 2},{i % 4},{[5, 4, 2, 3.5][i % 4]},{seconds[i]}" for i in range(rated)]
    write_lines(tmp_path / "ratings.csv", "userId,movieId,rating,timestamp", *lines)
    films = [f"{i},Film {i} ({[2000, 1990, 1950, 1999][i]}),Drama|War" for i in range(4)]
    write_lines(tmp_path / "movies.csv", "movieId,title,genres", *films)
    convert_movielens(tmp_path, tmp_path / "rows.csv")
    report = prepare_data(load_builtin_schema("movielens_small"), [tmp_path / "rows.csv"], tmp_path / "out")
    assert report["rows"] == {"train": 16, "validation": 2, "test": 2}
    block, ids = read_rows(tmp_path / "out", "train")
    np.testing.assert_array_equal(block["labels"][:4], [[1, 1], [1, 0], [0, 0], [1, 0]])  # 5, 4, 2 and 3.5 stars
    np.testing.assert_array_equal(block["domain"][:4], [0, 1, 2, 0])  # new, middle, old, new
    assert (ids["history"][:2] == -1).all()
    assert ids["history"][2, 0] == ids["movie_id"][0, 0]  # the user's earlier click, in the table of the films
    assert (ids["genres"][:, :2] >= 1).all()
    np.testing.assert_allclose(block["dense"][4:6, 0], np.log1p([2, 2]), rtol=1e-6)  # past_ratings; float32


def write_1m(folder, users=((1, "F", 1), (2, "M", 56), (3, "F", 25))):
    write_lines(folder / "users.dat", *(f"{user}::{gender}::{age}::10::0{user}067" for user, gender, age in users))
    write_lines(
        folder / "movies.dat", "5::Caf\xe9\x85 Noir (1991)::Drama|War", "6::Run (1999)::Action", "7::Two (2000)::War"
    )
    # Users by number; 3 has rated the first film of the file and 2 has not.
    ratings = ["1::6::5::978300760", "1::5::3::978300700", "2::7::4::978300000", "2::5::1::978300001"]
    write_lines(folder / "ratings.dat", *ratings, "3::7::4::978300002", "3::6::2::978300003")


def twin_joined(rows):
    """Returns the order of two nested joins over keys in order of first appearance: by film, then by user."""
    by_film = [row for film in dict.fromkeys(row[1] for row in rows) for row in rows if row[1] == film]
    return [row for user in dict.fromkeys(row[0] for row in by_film) for row in by_film if row[0] == user]


def test_movielens_1m_rows(tmp_path):
    write_1m(tmp_path)
    tables = read_movielens(tmp_path)
    assert tables.movies["title"][0] == "Caf\xe9\x85 Noir (1991)"  # Latin-1, whose line ends are \n alone
    in_file = build_movielens_rows(tables, "file")
    assert in_file["user_id"].to_list() == [1, 1, 2, 2, 3, 3]
    assert in_file["domain"].to_list() == ["under_25"] * 2 + ["35_up"] * 2 + ["25_to_34"] * 2
    assert in_file["first_genre"].to_list() == ["Action", "Drama", "War", "Drama", "War", "Action"]
    assert in_file["zip"][0] == "01067"
    assert in_file["history"].to_list() == ["", "", "", "7", "", "7"]
    assert build_movielens_rows(tables, "time")["timestamp"].is_sorted()
    joined = build_movielens_rows(tables, "joined").select("user_id", "movie_id").rows()
    assert joined == twin_joined(in_file.select("user_id", "movie_id").rows())
    assert [user for user, _ in joined] == [1, 1, 3, 3, 2, 2]


def test_joined_order_equals_the_slow_twin():
    rng = np.random.default_rng(1)
    pairs = rng.permutation([(user, film) for user in range(12) for film in range(15)])[:90]
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    ratings = pl.DataFrame(pairs, schema=["user_id", "movie_id"], orient="row")
    ratings = ratings.with_columns(rating=pl.lit(4.0), timestamp=pl.lit(978300000))
    movies = pl.DataFrame({"movie_id": range(15), "title": ["X (1990)"] * 15, "genres": ["War"] * 15})
    joined = build_movielens_rows(MovieLensTables(ratings, movies, None), "joined").select("user_id", "movie_id")
    assert joined.rows() == twin_joined([tuple(pair) for pair in pairs.tolist()])


def test_movielens_1m_is_cut_by_order(tmp_path):
    users = [(user, "FM"[user % 2], [1, 18, 25, 35, 45, 50, 56][user % 7]) for user in range(20)]
    write_1m(tmp_path, users)
    ratings = [
        f"{user}::{5 + i % 3}::{1 + (user + i) % 5}::{978300000 + 10 * user + i}"
        for user in range(20)
        for i in range(3)
    ]
    write_lines(tmp_path / "ratings.dat", *ratings)
    counts = convert_movielens(tmp_path, tmp_path / "rows.csv")
    assert counts == {"25_to_34": 9, "35_up": 33, "under_25": 18}
    report = prepare_data(load_builtin_schema("movielens_1m"), [tmp_path / "rows.csv"], tmp_path / "out")
    assert report["rows"] == {"train": 48, "validation": 6, "test": 6}
    block, ids = read_rows(tmp_path / "out", "test")
    assert (ids["user_id"] == 0).all()  # two whole users, new
    assert (ids["movie_id"] >= 1).all()
    stars = pl.read_csv(tmp_path / "rows.csv")["rating"].to_numpy()[-6:]
    np.testing.assert_array_equal(block["labels"], np.stack([stars > 3, stars > 4], axis=1))
    np.testing.assert_array_equal(block["domain"], [2] * 3 + [2] * 3)  # users 18 and 19: ages 45 and 50


@pytest.mark.parametrize(
    ("break_files", "words"),
    [
        (
            lambda folder: write_lines(folder / "ratings.dat", "1::6::5"),
            r"ratings\.dat, line 1: 3 fields .* expected 4",
        ),
        (lambda folder: write_lines(folder / "ratings.dat", "1::6::five::9"), r"row 1: rating = 'five'"),
        (lambda folder: write_lines(folder / "ratings.dat", "1::60::5::9"), "movie 60 is not among the movies"),
        (lambda folder: write_lines(folder / "ratings.dat", "4::6::5::9"), "user 4 is not among the users"),
        (
            lambda folder: write_lines(folder / "users.dat", "1::F::33::1::1", "2::F::1::1::1", "3::F::1::1::1"),
            "age 33",
        ),
        (
            lambda folder: write_lines(folder / "movies.dat", "6::A (1999)::War", "6::B (1999)::War"),
            "movie 6 is listed",
        ),
        (lambda folder: (folder / "users.dat").unlink(), r"users\.dat: cannot read"),
        (lambda folder: (folder / "ratings.dat").unlink(), r"neither ratings\.csv"),
    ],
)
def test_broken_releases_are_refused_in_one_line(tmp_path, break_files, words):
    write_1m(tmp_path)
    break_files(tmp_path)
    with pytest.raises(UserError, match=words):
        convert_movielens(tmp_path, tmp_path / "rows.csv")
    assert not list(tmp_path.glob("rows.csv*"))


def test_movielens_small(real_data, tmp_path):
    folder = real_data("ml-latest-small")
    counts = convert_movielens(folder, tmp_path / "rows.csv")
    assert sum(counts.values()) == 100836
    assert min(counts.values()) > 0.3 * 100836  # near thirds
    rows = pl.read_csv(tmp_path / "rows.csv", schema_overrides={"history": pl.String})
    assert rows["timestamp"].is_sorted()
    clicks = rows.select("user_id", "movie_id", "timestamp", clicked=pl.col("rating") > 3)
    for row in rows.sample(40, seed=0).iter_rows(named=True):
        own = clicks.filter(pl.col("user_id") == row["user_id"], pl.col("timestamp") < row["timestamp"])
        latest = own.filter("clicked")["movie_id"].cast(pl.String).to_list()[-20:]
        assert (row["history"] or "") == "|".join(latest)
        assert row["past_ratings"] == own.height
    report = prepare_data(load_builtin_schema("movielens_small"), [tmp_path / "rows.csv"], tmp_path / "out")
    assert report["rows"]["train"] == pytest.approx(80669, abs=200)  # a second's ratings stay together


def test_convert_script_prints_its_domains(tmp_path):
    write_small(tmp_path)
    command = [sys.executable, "scripts/convert_movielens.py", f"--input={tmp_path}", f"--output={tmp_path / 'o.csv'}"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, env={"PYTHONPATH": str(REPOSITORY)})
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()[:2]] == [["middle", "2"], ["new", "4"]]
