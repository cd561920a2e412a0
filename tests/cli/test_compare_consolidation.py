"""Tests compare_consolidation: rows and schedule of each model; losses and capacities in the right rows.

Training is replaced by a summary computed from the schema, so the tests check what the command trains.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.command import run_command
from tests.repository import ROOT
from wukong_jax.config import RunConfig
from wukong_jax.data.blocks.row_blocks import open_row_blocks
from wukong_jax.schema import load_schema

DOMAINS, OBJECTIVES = ("domain_0", "domain_1"), ("click", "like")


@pytest.fixture
def compare(monkeypatch, tmp_path):
    trained: dict[str, RunConfig] = {}

    def train(config: RunConfig, workdir: str, say) -> dict:
        trained[Path(workdir).relative_to(tmp_path / "runs").as_posix()] = config
        schema = load_schema(Path(config.data.path) / "schema.json")
        names, domains = [label.name for label in schema.labels], schema.domain_values
        prefixes = [""]
        prefixes += [f"{name}/" for name in names if len(names) > 1]
        prefixes += [f"{domain}/{name}/" for domain in domains for name in names if len(domains) > 1]
        loss = 0.8 + config.seed / 100 + (0.01 if len(domains) > 1 else 0)
        test = {f"{prefix}{key}": loss for prefix in prefixes for key in ("normalized_entropy", "auc", "log_loss")}
        test |= {f"{prefix}calibration": 1.0 for prefix in prefixes}
        return {
            "test": test,
            "serve_flops_per_example": 100.0 * len(names),
            "embedding_parameters": 7,
            "data_fingerprint": "",
        }

    def run(*flags: str) -> dict[str, RunConfig]:
        monkeypatch.setattr("wukong_jax.scaling.repeats.train", train)
        run_command("compare_consolidation", *flags)
        return trained

    return run


def test_models_of_portfolios_groups_and_all(compare, tmp_path) -> None:
    groups = [[f"{DOMAINS[0]}/click", f"{DOMAINS[0]}/like"], [f"{DOMAINS[1]}/click"], [f"{DOMAINS[1]}/like"]]
    described = [{"portfolios": group, "dropped_columns": {}} for group in groups]
    described[1]["dropped_columns"] = {"item": "may not meet domain_1"}
    (tmp_path / "groups.json").write_text(json.dumps({"groups": described}))
    trained = compare(
        f"--config={ROOT / 'configs' / 'lattice' / 'planted.py'}",
        "--alone=related/lattice",
        "--together=related/tied,related/mmoe",
        f"--groups={tmp_path / 'groups.json'}",
        "--seeds=0,4",
        f"--workdir={tmp_path / 'runs'}",
        f"--output={tmp_path / 'out'}",
        "--config.data.options.domains=2",
        "--config.data.options.objectives=('click','like')",
        "--config.data.options.base_rates=(0.25,0.1)",
        "--config.data.options.train_rows=4000",
        "--config.data.options.validation_rows=500",
        "--config.data.options.test_rows=500",
    )
    alone = [f"alone/{domain}_{objective}" for domain in DOMAINS for objective in OBJECTIVES]
    grouped = ["groups/" + "_".join(name.replace("/", "_") for name in group) for group in groups]
    together = ["together/related_tied", "together/related_mmoe"]
    folders = [name.replace("+", "_") for name in trained]
    assert folders == [f"{place}/seed_{seed}" for place in (*alone, *together, *grouped) for seed in (0, 4)]

    own = trained["alone/domain_1_like/seed_4"]
    schema = load_schema(Path(own.data.path) / "schema.json")
    assert ([label.name for label in schema.labels], schema.domain_values) == (["like"], ())
    rows = open_row_blocks(own.data.path, "train").rows
    assert 1500 < rows < 2500
    whole = trained["together/related_tied/seed_0"].optimizer
    assert own.optimizer.decay_steps == round(whole.decay_steps * rows / 4000)
    assert trained["together/related_mmoe/seed_0"].model.factory == "lattice.baselines.mmoe:build"

    # the whole data's Bayes loss is not that of a part
    assert "bayes" in json.loads((tmp_path / "runs" / "data" / "report.json").read_text())
    assert "bayes" not in json.loads((Path(own.data.path) / "report.json").read_text())
    first, tied, _, split = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert first["flops_per_impression"] == pytest.approx(200)  # two models of 100 for every row
    ids = [count_ids(tmp_path / "runs" / "data", places) for places in ([0], [1], [0, 1])]
    assert max(ids[:2]) < ids[2] < sum(ids[:2])
    assert (first["embedding_rows"], first["mean_difference"], first["flops_saved"]) == (2 * sum(ids[:2]), 0, 0)
    assert (tied["embedding_rows"], tied["flops_per_impression"]) == (ids[2], 200)
    assert tied["embeddings_saved"] == pytest.approx(1 - ids[2] / (2 * sum(ids[:2])))
    assert tied["domain_1/like/difference"] == pytest.approx(0.01)
    assert tied["domain_1/like/worse"] is True
    assert tied["domain_1/like/normalized_entropy"] == pytest.approx([0.81, 0.85])
    assert (split["embedding_rows"], split["mean_difference"]) == (ids[0] + 2 * ids[1], 0)
    item = "groups/" + groups[1][0].replace("/", "_")
    kept = load_schema(tmp_path / "runs" / item / "rows" / "schema.json")
    assert "item" not in [column.name for column in kept.id_columns]


def count_ids(data: Path, domains: list[int]) -> int:
    """Returns the number of distinct ids of each vocabulary in the training rows of the given domains."""
    blocks, seen = open_row_blocks(data, "train"), set()
    for index in range(blocks.num_blocks):
        columns = blocks.read(index)
        for column, start, stop in blocks.schema.slot_ranges():
            ids = columns["ids"][np.isin(columns["domain"], domains), start:stop].reshape(-1)
            seen |= {(column.vocabulary, value) for value in ids[ids >= 0].tolist()}
    return len(seen)
