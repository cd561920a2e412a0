"""Compiles the train step of a model over bags for an H100 that is not here, and writes its HLO text to a file.

python -m tests.embeddings.compile_bag_step FILE
"""

import sys
from pathlib import Path

from wukong_jax.clusters.compile_ahead import compile_train_step, describe_devices, use_no_accelerator
from wukong_jax.clusters.targets import find_target
from wukong_jax.config import build_run_config
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source

ROWS, BAGS, LENGTH, WIDTH = 8192, 4, 8, 64
SLOTS = ROWS * BAGS * LENGTH


def main(output: str) -> None:
    use_no_accelerator()
    target = find_target("h100_1x1")
    schema = Schema(
        name="bags",
        source=Source("csv"),
        labels=(LabelColumn("click"),),
        dense=(DenseColumn("age"),),
        categorical=tuple(
            CategoricalColumn(f"bag{i}", rows=100_000, separator="|", max_length=LENGTH) for i in range(BAGS)
        ),
    )
    optimizer = {"kind": "rowwise_adagrad", "learning_rate": 0.01}
    config = build_run_config(
        {
            "name": "bags",
            "data": {"factory": "blocks", "path": "unread"},
            "embeddings": {"width": WIDTH, "pooling": "mean", "optimizer": optimizer},
            "model": {"factory": "wukong_jax.models.dlrm:build"},
            "training": {"batch_size": ROWS, "evaluation_batch_size": ROWS, "steps": 1},
        }
    )
    step = compile_train_step(config, schema, target, describe_devices(target))
    Path(output).write_text(step.hlo_text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
