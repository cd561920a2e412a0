"""A small log of clicks in files by day, and configs of runs on it."""

import numpy as np
import polars as pl

from wukong_jax.config import build_run_config
from wukong_jax.online.settings import OnlineSettings
from wukong_jax.online.train_online import train_online
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source, schema_to_json

DAY = 86_400
START = 19_700 * DAY  # 2023-12-09
SCHEMA = Schema(
    "log",
    Source("csv"),
    (LabelColumn("click"),),
    dense=(DenseColumn("price", "standardise"),),
    categorical=(
        CategoricalColumn("item", min_count=2),
        CategoricalColumn("user", encoding="hash", rows=20),
        CategoricalColumn("seen", separator="|", max_length=3, vocabulary_of="item"),
    ),
    domain="site",
    timestamp="time",
)
SETTINGS = OnlineSettings(rows=12, candidates=1)


def draw_day(day: int, rows: int = 150) -> pl.DataFrame:
    """Returns the rows of a day; half of the items are other ones every two days."""
    random = np.random.default_rng(day)
    items = [f"i{value}" for value in range(5 * day, 5 * day + 14)]
    return pl.DataFrame(
        {
            "time": START + day * DAY + np.sort(random.integers(0, DAY, rows)),
            "price": random.normal(10, 3, rows).round(2),
            "item": random.choice(items, rows),
            "user": random.integers(0, 50, rows),
            "seen": ["|".join(random.choice(items, random.integers(0, 5))) for _ in range(rows)],
            "site": random.choice(["a", "b"], rows),
            "click": (random.random(rows) < 0.3).astype(int),
        }
    )


def write_days(folder, days, change=lambda day, frame: frame):
    """Writes a file a day, and the schema beside the folder; returns the folder."""
    folder.mkdir(exist_ok=True, parents=True)
    for day in days:
        change(day, draw_day(day)).write_csv(folder / f"{day:02d}.csv")
    (folder.parent / "schema.json").write_text(schema_to_json(SCHEMA), encoding="utf-8")
    return folder


def make_config(log, **changes):
    config = {
        "name": "log",
        "data": {"factory": "raw", "path": str(log), "schema": str(log.parent / "schema.json")},
        "embeddings": {
            "width": 4,
            "initial_scale": 0.3,
            "optimizer": {"kind": "adagrad", "learning_rate": 0.1, "l2": 1e-3},
        },
        "model": {"factory": "wukong_jax.models.fm:build"},
        "training": {"batch_size": 64, "evaluation_batch_size": 64, "epochs": 1},
        "optimizer": {"learning_rate": 0.01},
        "mesh": {"hosts": 1, "chips": 1},
    }
    return build_run_config(config | changes)


def run_log(log, workdir, settings=SETTINGS, say=lambda text: None, **changes):
    return train_online(make_config(log, **changes), settings, str(workdir), say)
