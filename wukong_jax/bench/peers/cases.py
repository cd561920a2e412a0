"""The models, sizes and batches on which our step and PyTorch's are timed."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from wukong_jax.bench.train_step import COLUMNS, DENSE, ZIPF
from wukong_jax.bench.zipf_ids import draw_zipf_ids
from wukong_jax.config import build_run_config
from wukong_jax.data.blocks.batch import Batch
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source
from wukong_jax.training.run import Run, build_run

EVENTS, DOMAINS = 12, 4  # length of the sequence and number of domains of Lattice's cases
# Adam's epsilon keeps gradients of the size of rounding errors from becoming whole steps, so that losses stay equal.
DENSE_RATE, DENSE_EPSILON, ROW_RATE = 1e-3, 1e-6, 0.01
LATTICE = {
    "layers": 3,
    "fusion": {"fmb_tokens": 16, "lcb_tokens": 16, "rank": 16, "hidden": (256,)},
    "head_hidden": 64,
}


@dataclasses.dataclass(frozen=True)
class PeerCase:
    """A model with its sizes. Every case has 13 dense and 26 categorical columns."""

    factory: str
    width: int  # D
    batch: int  # B
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    objectives: int = 1  # O
    domains: int = 1  # G
    events: int = 0  # length of a sequence beside the columns, read event by event; 0: no sequence
    exchange: str = "wukong_jax.embeddings.flat_exchange:build"


def _wukong(layers: int, tokens: int, rank: int, hidden: int, width: int, batch: int) -> PeerCase:
    options = {"layers": layers, "fmb_tokens": tokens, "lcb_tokens": tokens, "rank": rank, "fmb_hidden": (hidden,) * 2}
    return PeerCase("wukong_jax.models.wukong:build", width, batch, options)


CASES: Mapping[str, PeerCase] = {
    "wukong_s": _wukong(2, 8, 8, 256, 16, 4096),
    "wukong_m": _wukong(3, 16, 16, 256, 32, 4096),
    "wukong_l": _wukong(4, 32, 32, 512, 64, 2048),
    "dlrm": PeerCase("wukong_jax.models.dlrm:build", 32, 4096),
    "dcnv2": PeerCase("wukong_jax.models.dcnv2:build", 32, 4096),
    "masknet": PeerCase("wukong_jax.models.masknet:build", 16, 4096),
    "xdeepfm": PeerCase("wukong_jax.models.xdeepfm:build", 16, 4096),
    "lattice": PeerCase("lattice.network:build", 32, 4096, LATTICE, objectives=2, domains=DOMAINS),
}

# Cases without a twin, each with the case to which its time and its FLOPs are compared.
DLRM = "wukong_jax.models.dlrm:build"


def _towers(module: Mapping[str, Any]) -> PeerCase:
    options = {"towers": 4, "module": module, "over": DLRM}
    return PeerCase("dmt.model:build", 64, 4096, options, exchange="dmt.tower_exchange:build")


OWN_CASES: Mapping[str, tuple[PeerCase, PeerCase]] = {
    "lattice_events": (
        PeerCase("lattice.network:build", 32, 2048, LATTICE | {"sequences": ("history",)}, 2, DOMAINS, EVENTS),
        PeerCase("lattice.network:build", 32, 2048, LATTICE, 2, DOMAINS),
    ),
    "towers_dlrm": (_towers({"kind": "dlrm", "compression": 2}), PeerCase(DLRM, 64, 4096)),
    "towers_dcn": (_towers({"kind": "dcn", "compression": 2, "cross_rank": 32}), PeerCase(DLRM, 64, 4096)),
}


def build_case_run(case: PeerCase, rows: int) -> Run:
    """Builds our run of a case.

    Args:
      case: the model and its sizes.
      rows: rows of all 26 tables together; they are of equal size.
    """
    size = rows // COLUMNS
    columns = tuple(CategoricalColumn(f"c{i}", "identity", rows=size) for i in range(COLUMNS))
    history = CategoricalColumn("history", "identity", rows=size, separator=",", max_length=max(case.events, 1))
    fields = {"history": {"pooling": "none"}} if case.events else {}
    schema = Schema(
        "bench",
        Source("parquet"),
        labels=tuple(LabelColumn(f"objective_{i}") for i in range(case.objectives)),
        dense=tuple(DenseColumn(f"d{i}") for i in range(DENSE)),
        categorical=columns,
        sequences=(history,) if case.events else (),
        domain="domain" if case.domains > 1 else None,
        domain_values=tuple(map(str, range(case.domains))) if case.domains > 1 else (),
    )
    optimizer = {"kind": "rowwise_adagrad", "learning_rate": ROW_RATE}
    config = build_run_config(
        {
            "name": "bench",
            "data": {"format": "blocks", "path": "none"},
            "model": {"factory": case.factory, "options": case.options},
            "embeddings": {"width": case.width, "optimizer": optimizer, "fields": fields},
            "exchange": {"factory": case.exchange},
            "optimizer": {"learning_rate": DENSE_RATE, "options": {"epsilon": DENSE_EPSILON}},
            "training": {"batch_size": case.batch, "evaluation_batch_size": case.batch, "steps": 1},
            "mesh": {"hosts": 1, "chips": 1},
        }
    )
    return build_run(config, schema)


def draw_case_batches(case: PeerCase, run: Run, count: int) -> list[Batch]:
    """Draws batches of random values and labels, with ids that are Zipf-distributed over the rows of each table."""
    random = np.random.default_rng(0)
    rows = case.batch
    ids = np.split(draw_zipf_ids(random, run.layout, rows * count, ZIPF), count)
    zeros, ones = np.zeros(rows, np.int32), np.ones((rows, case.objectives), np.float32)
    return [
        Batch(
            dense=random.normal(size=(rows, DENSE)).astype(np.float32),
            ids=own,
            labels=random.integers(0, 2, (rows, case.objectives)).astype(np.float32),
            label_mask=ones,
            domain=random.integers(0, case.domains, rows).astype(np.int32),
            group=zeros,
            timestamp=zeros,
            weight=ones[:, 0],
            extras={},
        )
        for own in ids
    ]
