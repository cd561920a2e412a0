"""Tests merged data sets: every row of every source by its values, in the right place, and what is refused."""

import dataclasses
import json
import math

import numpy as np
import polars as pl
import pytest

from lattice.merging.merge_datasets import merge_datasets
from lattice.merging.merged_schema import merge_schemas, pool_moments
from lattice.merging.row_streams import merge_streams
from tests.lattice.merging.made_sets import ADS, FEED, ROWS, make_ads, make_feed, prepare, read_values
from wukong_jax.config import DataConfig
from wukong_jax.data.blocks.row_blocks import SPLITS, open_row_blocks
from wukong_jax.data.raw.memory_rows import MemoryEncoder
from wukong_jax.data.raw.new_rows import read_encoded_rows
from wukong_jax.data.raw.translated_rows import RowTranslator
from wukong_jax.data.raw.vocabulary import load_vocabulary
from wukong_jax.errors import UserError
from wukong_jax.runs.rows import open_run_data
from wukong_jax.runs.scoring import encode_rows
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source, load_schema


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Returns the folder, and raw rows and prepared folder of each data set."""
    folder = tmp_path_factory.mktemp("sets")
    feed, ads = prepare(folder, FEED, make_feed, 16), prepare(folder, ADS, make_ads, 7)
    merge_datasets({"feed": str(feed[1]), "ads": str(ads[1])}, folder / "merged")
    return folder, feed, ads


def merge_in_plain_python(feed, ads):
    """Returns the rows of two splits as they should be merged: by time, of equal times the first source first."""
    order = [(row["time"], 0, place) for place, row in enumerate(feed)]
    order += [(row["time"], 1, place) for place, row in enumerate(ads)]
    return [(source, (feed, ads)[source][place]) for _, source, place in sorted(order)]


def unstandardise(value, schema, name):
    column = next(column for column in schema.dense if column.name == name)
    return value * column.standard_deviation + column.mean


@pytest.mark.parametrize("split", SPLITS)
def test_every_row_has_the_values_of_its_source(made, split):
    folder, (_, feed_path), (_, ads_path) = made
    feed, ads = read_values(feed_path, split), read_values(ads_path, split)
    merged, schema = read_values(folder / "merged", split), load_schema(folder / "merged" / "schema.json")
    own_schemas = load_schema(feed_path / "schema.json"), load_schema(ads_path / "schema.json")
    assert len(merged) == 2 * ROWS[split] == len(feed) + len(ads)
    for found, (source, expected) in zip(merged, merge_in_plain_python(feed, ads), strict=True):
        for column in schema.id_columns:
            assert found[column.name] == expected.get(column.name, [])
        assert found["labels"] == expected["labels"]
        assert found["domain"] == ("ads" if source else f"feed/{expected['domain']}")
        assert (found["time"], found["weight"], found["group"]) == (expected["time"], expected["weight"], 0)
        raw = unstandardise(expected["age"], own_schemas[source], "age")
        assert unstandardise(found["age"], schema, "age") == pytest.approx(raw, rel=1e-6, abs=1e-4)
        assert (found["price"], found["views"]) == (expected.get("price", 0.0), expected.get("views", 0.0))


def test_values_are_those_of_the_raw_rows(made):
    """The comparison above would miss what both sides get wrong; this one starts from the raw texts."""
    folder, (feed, _), (ads, _) = made
    merged = read_values(folder / "merged", "train")
    rows = {True: iter(ads["train"]), False: iter(feed["train"])}
    counted = {}
    for row in feed["train"]:
        for item in [row["item"], *row["history"].split("|")[-3:]]:
            counted[item] = counted.get(item, 0) + 1
    for found in merged:
        raw = next(rows[found["domain"] == "ads"])
        assert found["user"] == [raw["user"]]
        of_ads = found["domain"] == "ads"
        assert found["tags"] == [tag for tag in raw["tags"].split("|") if tag][: 4 if of_ads else 2]
        assert found["item"] == [raw["item"] if of_ads or counted[raw["item"]] > 1 else "?"]
        assert found["labels"].get("click") == {"yes": 1, "no": 0, "1": 1, "0": 0, "": None}[raw["click"]]
        assert ("like" in found["labels"], "buy" in found["labels"]) == (not of_ads, of_ads and raw["buy"] != "")


def test_the_vocabulary_is_that_of_all_training_rows(made):
    """Counts are added, and ids are in the order in which preparing all rows would give them."""
    folder, (feed, _), (ads, _) = made
    counts = {}
    for row in feed["train"] + ads["train"]:
        counts[row["user"]] = counts.get(row["user"], 0) + 1
    vocabulary = load_vocabulary(folder / "merged" / "vocabulary", "user")
    expected = sorted(counts.items(), key=lambda item: (-item[1], item[0].encode()))
    assert list(zip(vocabulary.values, vocabulary.counts, strict=True)) == expected
    schema = load_schema(folder / "merged" / "schema.json")
    assert schema.vocabulary_rows()["user"] == len(expected) + 1
    assert schema.vocabulary_rows()["shelf"] == 14
    assert {c.name: c.max_length for c in schema.id_columns}["tags"] == 4
    assert schema.domain_values == ("feed/home", "feed/shop", "ads")
    assert [label.name for label in schema.labels] == ["click", "like", "buy"]


def test_a_standardised_column_has_the_moments_of_all_training_rows(made):
    folder, (feed, _), (ads, _) = made
    ages = [float(row["age"] or 30) for row in feed["train"] + ads["train"]]
    column = next(c for c in load_schema(folder / "merged" / "schema.json").dense if c.name == "age")
    assert column.mean == pytest.approx(np.mean(ages), rel=1e-12)
    assert column.standard_deviation == pytest.approx(np.std(ages), rel=1e-12)
    values = [row["age"] for row in read_values(folder / "merged", "train")]
    assert (np.mean(values), np.std(values)) == (pytest.approx(0, abs=1e-6), pytest.approx(1, rel=1e-6))
    assert pool_moments([(3, 1.1, 0.7), (5, 1.1, 0.7)]) == (1.1, 0.7)


def test_a_dense_column_that_is_absent_has_the_number_of_an_empty_cell(tmp_path):
    one = Schema("one", Source("csv"), (LabelColumn("y"),), dense=(DenseColumn("age", "standardise", 30.0),))
    one = dataclasses.replace(one, dense=(dataclasses.replace(one.dense[0], mean=40.0, standard_deviation=5.0),))
    other = Schema("b", Source("csv"), (LabelColumn("y"),), dense=(DenseColumn("views", "log1p", 3.0),))
    merged = merge_schemas({"one": one, "b": other}, {"one": 4, "b": 9})
    rows = {name: np.zeros((2, *shape), np.float32) for name, shape in other.column_shapes().items()}
    rows |= {"ids": np.zeros((2, 0), np.int32), "domain": np.zeros(2, np.int32), "dense": np.ones((2, 1), np.float32)}
    np.testing.assert_allclose(RowTranslator("b", other, merged, {}).translate(rows)["dense"], [[-2, 1]] * 2)
    np.testing.assert_allclose(RowTranslator("one", one, merged, {}).translate(rows)["dense"], [[1, math.log(4)]] * 2)


def test_a_set_with_itself_leaves_the_vocabularies_as_they_are(made, tmp_path):
    _, (_, path), _ = made
    merge_datasets({"one": str(path), "two": str(path)}, tmp_path / "twice")
    before, after = load_schema(path / "schema.json"), load_schema(tmp_path / "twice" / "schema.json")
    assert after.id_columns == before.id_columns
    assert after.dense == before.dense
    for name in ("user", "item", "tags"):
        own, both = (load_vocabulary(folder / "vocabulary", name) for folder in (path, tmp_path / "twice"))
        assert both.values.equals(own.values)
        assert both.counts.equals(2 * own.counts)
    for split in SPLITS:
        rows = read_values(path, split)
        doubled = read_values(tmp_path / "twice", split)
        for name in ("one", "two"):
            mine = [row for row in doubled if row["domain"].startswith(name)]
            assert [row | {"domain": row["domain"][4:]} for row in mine] == rows


def test_one_set_alone_equals_itself_but_for_its_domain(made, tmp_path):
    _, _, (_, path) = made
    merge_datasets({"only": str(path)}, tmp_path / "alone")
    for split in SPLITS:
        rows = read_values(path, split)
        assert read_values(tmp_path / "alone", split) == [row | {"domain": "only"} for row in rows]
    before, after = load_schema(path / "schema.json"), load_schema(tmp_path / "alone" / "schema.json")
    for field in ("labels", "split", "dense", "categorical", "sequences", "timestamp", "group", "weight"):
        assert getattr(after, field) == getattr(before, field)
    report = json.loads((tmp_path / "alone" / "report.json").read_text())
    own = json.loads((path / "report.json").read_text())
    for key in ("rows", "label_rate", "unknown_share", "bags", "constant_columns", "vocabulary_rows"):
        assert report[key] == own[key]


def test_the_folder_is_one_of_prepared_rows(made, tmp_path):
    """It has checksums and a fingerprint, and the same merge gives the same."""
    folder, (_, feed), (_, ads) = made
    merge_datasets({"feed": str(feed), "ads": str(ads)}, tmp_path / "again")
    first, second = (
        open_run_data(DataConfig("blocks", path=str(path)), tmp_path, print)
        for path in (folder / "merged", tmp_path / "again")
    )
    assert first.fingerprint == second.fingerprint
    assert len(open_row_blocks(folder / "merged", "train").digests) == math.ceil(2 * ROWS["train"] / 16)
    assert first.report["domain_rows"]["ads"] == ROWS


def test_rows_that_are_not_in_order_of_time_are_interleaved_evenly(made, tmp_path):
    _, (_, feed), _ = made
    _, ads = prepare(tmp_path, ADS, lambda number, seed: make_ads(number // 3, seed, ordered=False), 7)
    report = merge_datasets({"feed": str(feed), "ads": str(ads)}, tmp_path / "mixed")
    assert report["merged"]["order"] == "interleaved evenly (train rows of ads not in order of time)"
    merged = read_values(tmp_path / "mixed", "train")
    feeds, own = read_values(feed, "train"), read_values(ads, "train")
    assert [row["user"] for row in merged if row["domain"] == "ads"] == [row["user"] for row in own]
    assert [row["user"] for row in merged if row["domain"] != "ads"] == [row["user"] for row in feeds]
    places = [place for place, row in enumerate(merged) if row["domain"] == "ads"]
    assert places == [4 * i + 2 for i in range(30)]  # 90 rows and 30


@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 5, 2), (100, 1, 7)])
def test_streams_merge_in_order_whatever_the_size_of_their_parts(sizes):
    random = np.random.default_rng(sum(sizes))
    keys = [np.sort(random.integers(0, 6, rows)) for rows in (20, 0, 33)]

    def cut(place):
        for first in range(0, len(keys[place]), sizes[place]):
            part = keys[place][first : first + sizes[place]]
            yield part, {"of": np.full(len(part), place), "row": np.arange(first, first + len(part))}

    merged = list(merge_streams([cut(place) for place in range(3)]))
    found = np.concatenate([np.stack([part["of"], part["row"]], 1) for part in merged]).tolist()
    expected = sorted((key, of, row) for of, own in enumerate(keys) for row, key in enumerate(own.tolist()))
    assert found == [[of, row] for _, of, row in expected]


def test_renamed_columns_are_kept_apart(made, tmp_path):
    _, (_, feed), (_, ads) = made
    names = {"ads:item": "ad_item", "ads:click": "ad_click", "feed:item": "post"}
    report = merge_datasets({"feed": str(feed), "ads": str(ads)}, tmp_path / "apart", names)
    schema = load_schema(tmp_path / "apart" / "schema.json")
    assert next(c for c in schema.sequences if c.name == "history").vocabulary_of == "post"
    for column, before, path in (("post", "item", feed), ("ad_item", "item", ads)):
        own, found = (
            load_vocabulary(path / "vocabulary", before),
            load_vocabulary(tmp_path / "apart/vocabulary", column),
        )
        assert (found.values.equals(own.values), found.counts.equals(own.counts)) == (True, True)
    for row in read_values(tmp_path / "apart", "test"):
        of_ads = row["domain"] == "ads"
        assert (len(row["ad_item"]), len(row["post"])) == (of_ads, not of_ads)
        assert ("ad_click" in row["labels"]) == of_ads
    assert "labels of all: none" in report["merged"]["columns"]
    assert "columns of all: age, user, shelf, tags" in report["merged"]["columns"]


SINGLE = CategoricalColumn("item")
SCHEMA = Schema("a", Source("csv"), (LabelColumn("y", threshold=4.0),), categorical=(SINGLE,))


def change(column, **changes):
    return dataclasses.replace(SCHEMA, categorical=(dataclasses.replace(column, **changes),))


HASHED = CategoricalColumn("item", encoding="hash", rows=9)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (SCHEMA, dataclasses.replace(SCHEMA, categorical=(), dense=(DenseColumn("item"),)), "one value in a, a dense"),
        (SCHEMA, change(SINGLE, separator="|", max_length=2), "one value in a, a bag of values in b"),
        (SCHEMA, change(HASHED), "encoding = vocabulary in a, encoding = hash in b"),
        (change(HASHED), change(HASHED, rows=8), "rows = 9 in a, rows = 8 in b"),
        (change(HASHED), change(HASHED, salt=1), "salt = 0 in a, salt = 1 in b"),
        (SCHEMA, change(SINGLE, transform="criteo_log"), "transform = none in a, transform = criteo_log in b"),
        (SCHEMA, dataclasses.replace(SCHEMA, labels=(LabelColumn("y", threshold=5.0),)), "threshold = 4.0 in a"),
    ],
)
def test_columns_of_one_name_and_another_kind_are_refused_with_the_fix(first, second, message):
    with pytest.raises(UserError) as error:
        merge_schemas({"a": first, "b": second}, {"a": 1, "b": 1})
    assert message in str(error.value)
    assert "rename it in one of them, such as --rename=b:" in str(error.value)
    assert "\n" not in str(error.value)


def test_names_that_mean_nothing_are_refused(made, tmp_path):
    _, (_, feed), (_, ads) = made
    inputs = {"feed": str(feed), "ads": str(ads)}
    for renamed, message in (
        ({"ads:place": "x"}, "--rename = ads:place: no column or label of ads; it has price"),
        ({"ads": "x"}, "--rename = ads=x: not SET:COLUMN=NEW with a set of feed, ads"),
        ({"shop:item": "x"}, "not SET:COLUMN=NEW"),
        ({"ads:item": "user"}, "column 'user': listed twice"),
        ({"ads:click": "buy"}, "gives two labels of ads one name"),
    ):
        with pytest.raises(UserError, match=message):
            merge_datasets(inputs, tmp_path / "no", renamed)
    with pytest.raises(UserError, match="no name of a data set"):
        merge_datasets({"a/b": str(feed)}, tmp_path / "no")
    with pytest.raises(UserError, match="holds no row blocks"):
        merge_datasets({"a": str(tmp_path)}, tmp_path / "no")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("renamed", [{}, {"ads:item": "ad_item", "feed:item": "post", "feed:age": "years"}])
def test_raw_rows_of_one_set_are_encoded_like_its_merged_rows(made, tmp_path, renamed):
    folder, (_, feed_path), (_, ads_path) = made
    merge_datasets({"feed": str(feed_path), "ads": str(ads_path)}, tmp_path / "merged", renamed)
    data = open_run_data(DataConfig("blocks", path=str(tmp_path / "merged")), tmp_path, print)
    blocks = data.splits["test"]
    parts = [blocks.read(index) for index in range(blocks.num_blocks)]
    stored = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for name in ("feed", "ads"):
        own = np.array([value.startswith(name) for value in data.schema.domain_values])[stored["domain"]]
        encoded = list(encode_rows(data.schema, data, folder / f"raw_{name}" / "test.csv", name))
        found = {key: np.concatenate([part[key] for part in encoded]) for key in encoded[0]}
        assert np.array_equal(found["domain"], stored["domain"][own])
        np.testing.assert_allclose(found["dense"], stored["dense"][own], rtol=1e-5, atol=1e-6)
        known = stored["ids"][own] != 0
        assert np.array_equal(found["ids"][known], stored["ids"][own][known])
        if name == "feed":  # an item with too few rows in the feed, which the ads know
            assert ((found["ids"] > 0) & ~known).any() == (not renamed)
        frame = pl.read_csv(folder / f"raw_{name}" / "test.csv", infer_schema=False)
        again = list(encode_rows(data.schema, data, frame, name))
        assert np.array_equal(np.concatenate([part["ids"] for part in again]), found["ids"])


def test_the_data_set_of_raw_rows_must_be_named(made, tmp_path):
    folder, (_, feed), _ = made
    data = open_run_data(DataConfig("blocks", path=str(folder / "merged")), tmp_path, print)
    raw = folder / "raw_feed" / "test.csv"
    with pytest.raises(UserError, match="--data_set: none given; name the one whose raw rows these are: feed, ads"):
        encode_rows(data.schema, data, raw)
    with pytest.raises(UserError, match="--data_set: shop is no data set of these rows"):
        encode_rows(data.schema, data, raw, "shop")
    single = open_run_data(DataConfig("blocks", path=str(feed)), tmp_path, print)
    with pytest.raises(UserError, match="--data_set = feed: the run's rows are not merged"):
        encode_rows(single.schema, single, raw, "feed")


def test_raw_rows_are_refused_in_one_line(made, tmp_path):
    folder, *_ = made
    schema, vocabularies = load_schema(folder / "merged" / "schema.json"), folder / "merged" / "vocabulary"
    raw = folder / "raw_feed" / "test.csv"
    with pytest.raises(UserError, match="'merged': these rows come from several data sets"):
        next(read_encoded_rows(schema, vocabularies, raw, False))
    with pytest.raises(UserError, match="'merged': these rows"):
        MemoryEncoder(schema, vocabularies)
