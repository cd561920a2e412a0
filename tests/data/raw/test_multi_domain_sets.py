"""Tests data sets with several domains and objectives: synthetic rows in the published layouts, and the real sets."""

import dataclasses
import datetime

import jax
import numpy as np
import polars as pl
import pytest

from tests.repository import CONFIGS
from wukong_jax.config import build_run_config
from wukong_jax.config_files import load_config
from wukong_jax.data.blocks.row_blocks import open_row_blocks
from wukong_jax.data.raw.builtin_schemas import load_builtin_schema
from wukong_jax.data.raw.kuairand_rows import convert_kuairand
from wukong_jax.data.raw.prepare import prepare_data
from wukong_jax.errors import UserError
from wukong_jax.schema import Schema, load_schema
from wukong_jax.strict_mapping import build_dataclass
from wukong_jax.training.run import build_run

LOG = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
)
USERS = (
    "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,follow_user_num,"
    "follow_user_num_range,fans_user_num,fans_user_num_range,friend_user_num,friend_user_num_range,register_days,"
    "register_days_range," + ",".join(f"onehot_feat{i}" for i in range(18))
)
VIDEOS = (
    "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,server_height,"
    "music_id,music_type,tag"
)


def write_lines(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="latin-1")


def read_rows(directory, split):
    """Returns the arrays of a split's first block, with its ids as a mapping from column to [rows, slots]."""
    schema = load_schema(directory / "schema.json")
    block = open_row_blocks(directory, split).read(0)
    return block, {column.name: block["ids"][:, start:stop] for column, start, stop in schema.slot_ranges()}


# --- hotel bookings ---


def test_hotel_bookings_leave_out_what_leaks():
    schema = load_builtin_schema("hotel_bookings")
    labels = {"is_canceled", "total_of_special_requests", "required_car_parking_spaces"}
    late = {"reservation_status", "reservation_status_date", "assigned_room_type", "booking_changes"}
    features = {column.name for column in (*schema.dense, *schema.id_columns)}
    assert {label.source_column for label in schema.labels} == labels
    assert not features & (labels | late | {"arrival_date_year"})


def test_hotel_bookings(real_data, tmp_path):
    report = prepare_data(load_builtin_schema("hotel_bookings"), [real_data("hotel-bookings")], tmp_path / "out")
    rows = report["rows"]
    assert sum(rows.values()) == 119390
    for name, expected in (("canceled", 44224), ("special_request", 49072), ("parking", 7416)):
        positive = sum(report["label_rate"][name][split] * count for split, count in rows.items())
        assert positive == pytest.approx(expected, abs=0.2)  # rates are rounded to 1e-6
    totals = {domain: sum(counts.values()) for domain, counts in report["domain_rows"].items()}
    assert totals == {"City Hotel": 79330, "Resort Hotel": 40060}
    first, last = {}, {}
    for split in rows:
        blocks = open_row_blocks(tmp_path / "out", split)
        parts = [blocks.read(block) for block in range(-(-blocks.rows // 8192))]
        days = np.concatenate([part["timestamp"] for part in parts])
        first[split], last[split] = days.min(), days.max()
        labels = np.concatenate([part["labels"] for part in parts])
        assert (labels[labels[:, 0] == 1, 2] == 0).all()  # parking is 0 for every canceled booking
    assert last["train"] < first["validation"] <= last["validation"] < first["test"]  # no day is on both sides
    assert datetime.datetime.fromtimestamp(int(first["test"]), datetime.UTC).date() == datetime.date(2017, 4, 22)


DATED = {
    "name": "dated",
    "source": {"format": "csv"},
    "labels": [{"name": "y"}],
    "categorical": [{"name": "month"}],
    "timestamp_parts": ["year", "month", "day"],
    "timestamp_format": "%Y %B %d",
}


def build_schema(**changes):
    return build_dataclass(Schema, DATED | changes, "dated")


def test_a_date_in_three_columns_becomes_seconds(tmp_path):
    days = [datetime.date(2015, 12, 31), datetime.date(2016, 2, 29), datetime.date(2016, 3, 1)]
    write_lines(tmp_path / "rows.csv", "y,day,month,year", *(f"1,{d.day},{d:%B},{d.year}" for d in days))
    split = {"by": "order", "validation_fraction": 0, "test_fraction": 0}
    prepare_data(build_schema(split=split), [tmp_path / "rows.csv"], tmp_path / "out")
    block, ids = read_rows(tmp_path / "out", "train")
    expected = [(day - datetime.date(1970, 1, 1)).days * 86400 for day in days]
    assert block["timestamp"].tolist() == expected
    assert len({*ids["month"][:, 0]}) == 3  # the month is still a feature of its own


def test_a_date_that_is_none_is_refused_by_its_line(tmp_path):
    write_lines(tmp_path / "rows.csv", "y,day,month,year", "1,1,May,2016", "0,30,February,2016")
    with pytest.raises(UserError, match=r"line 3, column 'year' = '2016 February 30': expected .*%Y %B %d"):
        prepare_data(build_schema(), [tmp_path / "rows.csv"], tmp_path / "out")


@pytest.mark.parametrize("changes", [{"timestamp": "day"}, {"timestamp_format": None}])
def test_parts_of_a_date_stand_alone_and_need_a_form(changes):
    with pytest.raises(UserError, match=r"timestamp_parts = \['year', 'month', 'day'\]"):
        build_schema(**changes)


# --- KuaiRand-Pure ---


def write_kuairand(folder, log_rows, users, videos):
    write_lines(folder / "log_standard_4_08_to_4_21_pure.csv", LOG, *log_rows[0::3])
    write_lines(folder / "log_standard_4_22_to_5_08_pure.csv", LOG, *log_rows[1::3])
    write_lines(folder / "log_random_4_22_to_5_08_pure.csv", LOG, *log_rows[2::3])
    write_lines(folder / "user_features_pure.csv", USERS, *users)
    write_lines(folder / "video_features_basic_pure.csv", VIDEOS, *videos)


def made_up_kuairand(folder, tabs=(0, 1, 4, 2)):
    logs = [
        f"{i % 3},{i % 5},20220408,{100 * (i % 24)},{1649400000000 + 1000 * i},{i % 2},0,0,0,0,0,{i % 4 // 3},"
        f"900,30000,0,0,0,0,{tabs[i % len(tabs)]}"
        for i in range(120)
    ]
    onehot = ",".join(["0"] * 17 + [""])
    users = [f'{u},full_active,0,1,1,{u},"(10,50]",5,"[1,10)",3,"[1,5)",900,730+,{onehot}' for u in range(3)]
    videos = [f'{v},{v // 2},NORMAL,2022-04-01,Web,,87433.0,720.0,1280.0,99,9.0,"27,9"' for v in range(4)]
    write_kuairand(folder, logs, users, videos)
    return logs


def test_kuairand_rows(tmp_path):
    logs = made_up_kuairand(tmp_path)
    assert convert_kuairand(tmp_path, tmp_path / "rows.parquet") == {"0": 30, "1": 30, "4": 30}
    rows = pl.read_parquet(tmp_path / "rows.parquet")
    in_order = [line.split(",") for line in (*logs[0::3], *logs[1::3], *logs[2::3]) if line[-2:] != ",2"]
    assert rows["tab"].to_list() == [line[-1] for line in in_order]
    assert rows["hour"].to_list() == [int(line[3]) // 100 for line in in_order]
    assert rows["timestamp"].to_list() == [int(line[4]) // 1000 for line in in_order]
    outcomes = {"is_like", "play_time_ms", "profile_stay_time", "comment_stay_time", "is_profile_enter", "is_rand"}
    assert not outcomes & set(rows.columns)
    report = prepare_data(load_builtin_schema("kuairand_pure"), [tmp_path / "rows.parquet"], tmp_path / "out")
    assert sum(report["rows"].values()) == 90
    block, ids = read_rows(tmp_path / "out", "train")
    assert set(block["domain"].tolist()) == {0, 1, 2}
    assert len({*zip(block["domain"].tolist(), ids["tab"][:, 0].tolist(), strict=True)}) == 3  # the domain as a feature
    assert (block["labels"][:, 0] >= block["labels"][:, 1]).all()  # i % 4 == 3 is odd
    unknown_video = rows["video_id"].to_numpy() == "4"
    np.testing.assert_array_equal(rows["tag"].is_null().to_numpy(), unknown_video)  # no features, and still a row
    assert {*(ids["tag"] >= 0).sum(axis=1)} == {0, 2}  # "27,9" is a bag of two


def test_kuairand_sample(real_data, tmp_path):
    """The sample has the joined columns of another project; taken apart here, they are joined again."""
    sample = pl.read_csv(real_data("multitask-schema-samples") / "kuairand_sample.csv", infer_schema=False)
    duration, played = (sample[name].cast(pl.Int64) for name in ("duration_ms", "play_time_ms"))
    added = {"long_view": (played >= duration.clip(upper_bound=18000)).cast(pl.Int64), "time_ms": 1649400000000}
    sample = sample.with_columns(**added, hourmin=pl.lit(1200))
    sample = sample.with_columns(author_id=pl.lit(1), upload_type=pl.lit("Web"), video_duration=duration)
    sample = sample.with_columns(music_id=pl.lit(1), music_type=pl.lit(9), tag=pl.lit("1"))
    logs = ("user_id", "video_id", "hourmin", "time_ms", "is_click", "long_view", "tab")
    users, videos = (
        sample.select(["user_id", *(c for c in USERS.split(",") if c != "user_id")]).unique("user_id"),
        sample.select([c for c in VIDEOS.split(",") if c != "upload_dt"]).unique("video_id"),
    )
    for name in ("log_standard_4_08_to_4_21", "log_standard_4_22_to_5_08", "log_random_4_22_to_5_08"):
        sample.select(logs).write_csv(tmp_path / f"{name}_pure.csv")
    users.write_csv(tmp_path / "user_features_pure.csv")
    videos.write_csv(tmp_path / "video_features_basic_pure.csv")
    assert convert_kuairand(tmp_path, tmp_path / "rows.parquet", tabs=["1"]) == {"1": 3 * sample.height}
    rows = pl.read_parquet(tmp_path / "rows.parquet").head(sample.height)
    unchanged = ["user_id", "video_id", "is_click", "tab"]
    assert rows.select(unchanged).equals(sample.select(unchanged))
    report = prepare_data(load_builtin_schema("kuairand_pure"), [tmp_path / "rows.parquet"], tmp_path / "out")
    assert report["label_rate"]["click"]["train"] == pytest.approx(0.16, abs=0.04)


@pytest.mark.parametrize(
    ("break_files", "words"),
    [
        (lambda folder: (folder / "user_features_pure.csv").unlink(), r"no user_features_pure\.csv"),
        (lambda folder: made_up_kuairand(folder, tabs=(0, 1)), r"tab '4': no impression has it; the logs have 0, 1"),
        (
            lambda folder: write_lines(folder / "video_features_basic_pure.csv", "video_id,tag", "1,2"),
            "no column 'author",
        ),
        (
            lambda folder: write_lines(folder / "video_features_basic_pure.csv", VIDEOS, *["7" + "," * 11] * 2),
            "'7': listed",
        ),
    ],
)
def test_broken_kuairand_is_refused_in_one_line(tmp_path, break_files, words):
    made_up_kuairand(tmp_path)
    break_files(tmp_path)
    with pytest.raises(UserError, match=words):
        convert_kuairand(tmp_path, tmp_path / "rows.parquet")
    assert not list(tmp_path.glob("rows.parquet*"))


# --- KuaiVideo, census-income, and all configs ---


def test_kuai_video_objectives_read_three_labels(tmp_path):
    header = "timestamp,user_id,item_id,is_click,is_like,is_follow,pos_items,neg_items"
    write_lines(
        tmp_path / "train.csv", header, *(f"{i},0,{i % 2},{i % 2},{i % 3 // 2},{i % 5 // 4},1^2,3" for i in range(30))
    )
    write_lines(tmp_path / "test.csv", header, *["9,0,1,0,0,1,,1"] * 20)
    prepare_data(load_builtin_schema("kuai_video_objectives"), [tmp_path], tmp_path / "out")
    block, _ = read_rows(tmp_path / "out", "train")
    i = np.arange(30)
    np.testing.assert_array_equal(block["labels"], np.stack([i % 2, i % 3 // 2, i % 5 // 4], axis=1))


def test_census_income_has_two_domains_and_two_objectives():
    schema = load_builtin_schema("census_income")
    assert schema.domain == "year"
    assert [label.name for label in schema.labels] == ["income", "never_married"]


def resolve(schema):
    """Returns the schema as preparation would resolve it, with invented sizes."""

    def sized(columns):
        return tuple(dataclasses.replace(c, rows=c.rows if c.vocabulary_of else 9) for c in columns)

    dense = tuple(
        dataclasses.replace(c, mean=0.0, standard_deviation=1.0) if c.transform == "standardise" else c
        for c in schema.dense
    )
    parts = {"dense": dense, "categorical": sized(schema.categorical), "sequences": sized(schema.sequences)}
    return dataclasses.replace(schema, **parts, domain_values=schema.domain_values or ("a", "b"))


@pytest.mark.parametrize(
    ("name", "objectives"),
    [
        ("hotel_bookings", 3),
        ("movielens_small", 2),
        ("movielens_1m", 2),
        ("kuairand_pure", 2),
        ("kuai_video_objectives", 3),
    ],
)
def test_every_config_builds_its_model(name, objectives):
    assert "Data:" in (CONFIGS / "public" / f"{name}.py").read_text()
    config = load_config(f"public/{name}")
    config.data.path = "somewhere"
    config.mesh.chips = 1
    assert config.data.schema in (name, None, "")
    run = build_run(build_run_config(config), resolve(load_builtin_schema(name)))
    state, batch = run.abstract_inputs()
    after, _ = run.jit_train_step().trace(state, batch).out_info
    assert jax.tree.map(lambda a: a.shape, after) == jax.tree.map(lambda a: a.shape, state)
    assert batch.labels.shape[1] == objectives
