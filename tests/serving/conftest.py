"""A trained run and its artefact, shared by the tests of serving."""

import functools

import jax
import numpy as np
import polars as pl
import pytest

from tests.runs.test_train_run import silent
from wukong_jax.config import build_run_config
from wukong_jax.runs import open_run as open_run_module
from wukong_jax.runs.open_run import OpenRun, open_run
from wukong_jax.runs.train_run import train_run
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source, schema_to_json
from wukong_jax.serving.export import export_run
from wukong_jax.training.run import build_run

ROWS = 600


def describe_shop() -> Schema:
    return Schema(
        "shop",
        Source("csv"),
        (LabelColumn("click"), LabelColumn("buy")),
        dense=(DenseColumn("price", "standardise"), DenseColumn("clicks", "log1p")),
        categorical=(
            CategoricalColumn("item"),
            CategoricalColumn("user", encoding="hash", rows=50),
            CategoricalColumn("tags", encoding="hash", rows=40, separator="|", max_length=3),
        ),
        sequences=(CategoricalColumn("visited", separator="|", max_length=4, vocabulary_of="item"),),
        domain="site",
    )


def draw_shop_rows(rows: int = ROWS, seed: int = 0) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    items = [f"i{value}" for value in range(20)]

    def draw_bag(longest: int) -> str:
        return "|".join(random.choice(items, random.integers(0, longest + 1)))

    return pl.DataFrame(
        {
            "price": random.normal(10, 3, rows).round(2),
            "clicks": random.integers(0, 9, rows),
            "item": random.choice(items, rows),
            "user": random.integers(0, 90, rows),
            "tags": [draw_bag(4) for _ in range(rows)],
            "visited": [draw_bag(6) for _ in range(rows)],
            "site": random.choice(["a", "b"], rows),
            "click": (random.random(rows) < 0.4).astype(int),
            "buy": (random.random(rows) < 0.2).astype(int),
        }
    )


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
    """A folder with `run`, its raw file `rows.csv`, and its artefact `served`."""
    folder = tmp_path_factory.mktemp("shop")
    draw_shop_rows().write_csv(folder / "rows.csv")
    (folder / "schema.json").write_text(schema_to_json(describe_shop()), encoding="utf-8")
    config = build_run_config(
        {
            "name": "shop",
            "data": {"factory": "raw", "path": str(folder / "rows.csv"), "schema": str(folder / "schema.json")},
            "embeddings": {
                "width": 8,
                "initial_scale": 0.3,
                "optimizer": {"kind": "rowwise_adagrad", "learning_rate": 0.1},
            },
            "model": {"factory": "wukong_jax.models.wukong:build", "options": {"layers": 1}},
            "training": {"batch_size": 32, "evaluation_batch_size": 64, "epochs": 1},
            "optimizer": {"learning_rate": 0.01},
            "mesh": {"hosts": 1, "chips": 1},
        }
    )
    train_run(config, folder / "run", silent)
    export_run(open_on_one_device(folder / "run"), folder / "served", say=silent)
    return folder


def open_on_one_device(workdir) -> OpenRun:
    """Opens a run on one of the eight fake devices, of which each would compute an eighth of a batch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_run_module, "build_run", functools.partial(build_run, devices=jax.devices()[:1]))
        return open_run(workdir)
