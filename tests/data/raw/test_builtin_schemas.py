"""Tests that the built-in schemas read the data sets they are named after."""

import gzip

import numpy as np
import pytest

from wukong_jax.data.blocks.row_blocks import open_row_blocks
from wukong_jax.data.raw.builtin_schemas import BUILTIN_SCHEMAS, find_schema, load_builtin_schema
from wukong_jax.data.raw.prepare import prepare_data
from wukong_jax.errors import UserError

AVAZU_HEADER = (
    "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,device_id,"
    "device_ip,device_model,device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21"
)


@pytest.mark.parametrize("name", BUILTIN_SCHEMAS)
def test_builtin_schema_loads_and_has_its_columns(name):
    schema = find_schema(name)
    assert schema.name == name
    widths = {
        "avazu": (0, 21, 0, 1),
        "avazu_x4": (0, 22, 0, 1),
        "census_income": (7, 31, 0, 2),
        "criteo": (13, 26, 0, 1),
        "criteo_terabyte": (13, 26, 0, 1),
        "criteo_x1": (13, 26, 0, 1),
        "flights": (0, 9, 0, 1),
        "flights_log": (0, 8, 0, 1),
        "frappe": (0, 10, 0, 1),
        "hotel_bookings": (7, 16, 0, 3),
        "kuai_video": (0, 2, 2, 1),
        "kuai_video_objectives": (0, 2, 2, 3),
        "kuairand_pure": (5, 39, 0, 2),
        "micro_video": (0, 3, 2, 1),
        "movielens_1m": (1, 7, 0, 2),
        "movielens_latest": (0, 3, 0, 1),
        "movielens_small": (2, 5, 1, 2),
        "taobao_ads": (1, 16, 3, 1),
    }
    assert tuple(map(len, (schema.dense, schema.categorical, schema.sequences, schema.labels))) == widths[name]


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match=r"avazu, avazu_x4, census_income, .*taobao_ads"):
        load_builtin_schema("movielens")


def read_first(directory, split):
    blocks = open_row_blocks(directory, split)
    return blocks, blocks.read(0)


def test_criteo_rows_of_made_up_values(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        "\t".join(
            [str(rng.integers(2)), *(rng.choice(["", "-1", "0", "25"], 13)), *(rng.choice(["", "68fd1e64", "0a"], 26))]
        )
        for _ in range(100)
    ]
    (tmp_path / "day_0.txt").write_text("\n".join(rows[:50]) + "\n")
    with gzip.open(tmp_path / "day_1.txt.gz", "wt") as file:
        file.write("\n".join(rows[50:]))
    report = prepare_data(load_builtin_schema("criteo"), [tmp_path], tmp_path / "out")
    assert report["rows"] == {"train": 80, "validation": 10, "test": 10}
    _, block = read_first(tmp_path / "out", "train")
    first = rows[0].split("\t")
    assert block["labels"][0, 0] == int(first[0])
    expected = np.log1p([max(float(value or 0), 0) for value in first[1:14]])
    np.testing.assert_allclose(block["dense"][0], expected, rtol=1e-6)  # float32
    assert (block["ids"] >= 1).all()  # every value is frequent here, the empty one too


def test_avazu_rows_of_made_up_values(tmp_path):
    rows = [f"{i},{i % 2},141021{i % 24:02d}," + ",".join(str((i * k) % 5) for k in range(21)) for i in range(200)]
    (tmp_path / "train.csv").write_text("\n".join([AVAZU_HEADER, *rows]) + "\n")
    report = prepare_data(load_builtin_schema("avazu"), [tmp_path / "train.csv"], tmp_path / "out")
    assert sum(report["rows"].values()) == 200
    _, block = read_first(tmp_path / "out", "train")
    hours = (block["timestamp"] - 1413849600) // 3600  # 2014-10-21 00:00 UTC
    assert set(hours.tolist()) == set(range(24))


def test_criteo_sample(real_data, tmp_path):
    report = prepare_data(load_builtin_schema("criteo"), [real_data("criteo-10k")], tmp_path / "out")
    assert report["rows"] == {"train": 8000, "validation": 1000, "test": 1000}
    rates = report["label_rate"]["click"]
    assert rates["train"] * 8000 + rates["validation"] * 1000 + rates["test"] * 1000 == pytest.approx(2182, abs=0.1)


def test_frappe(real_data, tmp_path):
    report = prepare_data(load_builtin_schema("frappe"), [real_data("frappe")], tmp_path / "out")
    assert report["rows"] == {"train": 202027, "validation": 57722, "test": 28860}
    assert report["label_rate"]["used"]["test"] == pytest.approx(9536 / 28860, abs=1e-6)
    assert report["vocabulary_rows"]["weather"] == 10  # 9 values and the unknown row
    assert sum(report["vocabulary_rows"].values()) <= 5382 + 10
    assert report["unknown_share"]["user"]["test"] < 0.001


def test_census_income(real_data, tmp_path):
    report = prepare_data(load_builtin_schema("census_income"), [real_data("census-income-kdd")], tmp_path / "out")
    rows = report["rows"]
    assert rows["train"] == 199523
    assert rows["validation"] + rows["test"] == 99762
    assert abs(rows["validation"] - rows["test"]) < 6 * 316  # six standard deviations of a difference of two halves
    assert report["label_rate"]["income"]["train"] == pytest.approx(0.0621, abs=5e-5)
    assert report["label_rate"]["never_married"]["train"] == pytest.approx(0.4335, abs=5e-5)
    assert report["domain_rows"]["94"]["train"] == 99827
    assert report["domain_rows"]["95"]["train"] == 99696
    _, block = read_first(tmp_path / "out", "train")
    ages = block["dense"][:, 0]
    assert abs(ages.mean()) < 0.1  # standardised over all 199,523 rows, seen here over 8,192
