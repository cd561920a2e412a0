"""Two made-up logs of different schemas: raw rows, their prepared folders, and merged rows back as values."""

import csv
import random

from wukong_jax.data.blocks.row_blocks import SPLITS, open_row_blocks
from wukong_jax.data.raw.prepare import prepare_data
from wukong_jax.data.raw.vocabulary import load_vocabulary
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source, Split

BY_FILE = Split("file", train="train.csv", validation="validation.csv", test="test.csv")
FEED = Schema(
    "feed",
    Source("csv"),
    (LabelColumn("click"), LabelColumn("like")),
    split=BY_FILE,
    dense=(DenseColumn("age", "standardise", missing_value=30.0), DenseColumn("views", "log1p")),
    categorical=(
        CategoricalColumn("user"),
        CategoricalColumn("item", min_count=2),
        CategoricalColumn("shelf", encoding="identity", rows=9),
        CategoricalColumn("tags", separator="|", max_length=2),
    ),
    sequences=(CategoricalColumn("history", separator="|", max_length=3, vocabulary_of="item"),),
    domain="place",
    timestamp="time",
    weight="worth",
)
ADS = Schema(
    "ads",
    Source("csv"),
    (LabelColumn("click", positive=("yes",)), LabelColumn("buy")),
    split=BY_FILE,
    dense=(DenseColumn("price"), DenseColumn("age", "standardise", missing_value=30.0)),
    categorical=(
        CategoricalColumn("campaign", encoding="hash", rows=50),
        CategoricalColumn("item"),
        CategoricalColumn("user"),
        CategoricalColumn("shelf", encoding="identity", rows=14),
        CategoricalColumn("tags", separator="|", max_length=4),
    ),
    timestamp="moment",
)
ROWS = {"train": 90, "validation": 25, "test": 31}


def make_feed(number, seed=0):
    """Returns raw rows of the feed, in order of time with ties."""
    at = random.Random(seed)
    item = lambda: f"i{min(at.randrange(20), at.randrange(20))}"  # noqa: E731
    return [
        {
            "user": f"u{at.randrange(12)}",
            "item": item(),
            "shelf": str(at.randrange(12)),
            "tags": "|".join(f"t{at.randrange(5)}" for _ in range(at.randrange(4))),
            "history": "|".join(item() for _ in range(at.randrange(5))),
            "age": at.choice(["", "20", "41.5", "63"]),
            "views": str(at.randrange(100)),
            "place": at.choice(["home", "shop"]),
            "time": str(1000 + i // 2),
            "worth": str(1 + at.randrange(3)),
            "click": at.choice(["0", "1", ""]),
            "like": at.choice(["0", "1"]),
        }
        for i in range(number)
    ]


def make_ads(number, seed=1, ordered=True):
    """Returns raw rows of the ads, of other columns."""
    at = random.Random(seed)
    return [
        {
            "campaign": f"c{at.randrange(30)}",
            "item": f"i{at.randrange(10, 30)}",
            "user": f"u{at.randrange(6, 20)}",
            "shelf": str(at.randrange(15)),
            "tags": "|".join(f"t{at.randrange(3, 9)}" for _ in range(at.randrange(6))),
            "price": str(at.randrange(1000) / 8),
            "age": at.choice(["", "50", "71"]),
            "moment": str(1010 + (i // 3 if ordered else at.randrange(50))),
            "click": at.choice(["yes", "no"]),
            "buy": at.choice(["0", "1", ""]),
        }
        for i in range(number)
    ]


def prepare(folder, schema, make, rows_per_block, **options):
    """Writes raw files and prepares them; returns the raw rows of each split and the prepared folder."""
    raw = folder / f"raw_{schema.name}"
    raw.mkdir(parents=True)
    rows = {}
    for place, split in enumerate(SPLITS):
        rows[split] = make(ROWS[split], seed=3 * (schema is ADS) + place, **options)
        with (raw / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[split][0]))
            writer.writeheader()
            writer.writerows(rows[split])
    prepare_data(schema, [raw], folder / schema.name, rows_per_block=rows_per_block)
    return rows, folder / schema.name


def read_values(folder, split):
    """Returns the rows of a prepared folder as mappings, with ids of vocabularies as their texts, one row at a time.

    A value is a text, "?" (unknown) or a number (hash and identity columns); a column has a list of them.
    """
    blocks = open_row_blocks(folder, split)
    schema = blocks.schema
    texts = {
        column.name: ["?", *load_vocabulary(folder / "vocabulary", column.name).values.to_list()]
        for column in schema.id_columns
        if column.vocabulary_of is None and column.encoding == "vocabulary"
    }
    domains = schema.domain_values or ("",)
    read = []
    for index in range(blocks.num_blocks):
        columns = blocks.read(index)
        for row in range(blocks.block_rows(index)):
            values = {c.name: float(columns["dense"][row, place]) for place, c in enumerate(schema.dense)}
            for column, start, stop in schema.slot_ranges():
                ids = columns["ids"][row, start:stop].tolist()
                used = [number for number in ids if number >= 0]
                assert ids == used + [-1] * (len(ids) - len(used))  # values fill the first slots
                names = texts.get(column.vocabulary)
                values[column.name] = [names[number] if names else number for number in used]
            values["labels"] = {
                label.name: float(columns["labels"][row, place])
                for place, label in enumerate(schema.labels)
                if columns["label_mask"][row, place]
            }
            assert not columns["labels"][row][columns["label_mask"][row] == 0].any()
            values["domain"] = domains[columns["domain"][row]]
            values["time"] = int(columns["timestamp"][row])
            values["weight"] = float(columns["weight"][row])
            values["group"] = int(columns["group"][row])
            read.append(values)
    return read
