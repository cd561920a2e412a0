"""Tests compare_variants: a folder per variant and seed, overrides in the config, kept rows."""

import json
from pathlib import Path

import pytest

from tests.cli.command import run_command
from tests.repository import ROOT
from wukong_jax.config import RunConfig
from wukong_jax.errors import UserError


@pytest.fixture
def compare(monkeypatch):
    trained: list[tuple[RunConfig, str]] = []

    def train(config: RunConfig, workdir: str, say) -> dict:
        trained.append((config, workdir))
        summary = dict.fromkeys(("dense_parameters", "embedding_parameters", "train_flops_per_example"), 1)
        summary |= {
            "training_rows": 1,
            "examples_seen": 1,
            "wall_seconds": 1.0,
            "name": config.name,
            "data_fingerprint": "",
        }
        return summary | {"test": {"auc": 0.8 + config.seed / 100}}

    def run(*flags: str) -> list[tuple[RunConfig, str]]:
        monkeypatch.setattr("wukong_jax.scaling.repeats.train", train)
        run_command("compare_variants", *flags)
        return trained

    return run


def test_each_variant_has_its_own_folders_and_all_overrides(compare, tmp_path) -> None:
    trained = compare(
        "--config.data.path=somewhere",  # before the config: the order of flags does not matter
        f"--config={ROOT / 'configs' / 'dmt' / 'frappe.py'}",
        "--variants=flat,4",
        "--seeds=1,3",
        f"--workdir={tmp_path / 'runs'}",
        f"--output={tmp_path / 'out'}",
        "--config.training.batch_size=64",
    )
    folders = [Path(workdir).relative_to(tmp_path / "runs").as_posix() for _, workdir in trained]
    assert folders == ["flat/seed_1", "flat/seed_3", "4/seed_1", "4/seed_3"]
    for config, _ in trained:
        assert (config.data.path, config.training.batch_size) == ("somewhere", 64)
    assert [config.seed for config, _ in trained] == [1, 3, 1, 3]
    assert trained[0][0].model.factory != trained[2][0].model.factory == "dmt.model:build"
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert [(row["variant"], row["seeds"]) for row in rows] == [("flat", [1, 3]), ("4", [1, 3])]
    assert rows[0]["test_auc"] == pytest.approx(0.82)
    command = json.loads((tmp_path / "out" / "results.json").read_text())["command"]
    assert command.startswith("wukong-jax compare_variants --config.data.path=somewhere --config=")


def test_files_of_one_name_do_not_share_a_folder(compare, tmp_path) -> None:
    files = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        files.append(tmp_path / name / "towers.json")
    config = tmp_path / "variants.py"
    config.write_text(
        "from pathlib import Path\nimport runpy\n"
        f"quickstart = runpy.run_path({str(ROOT / 'configs' / 'quickstart.py')!r})\n"
        "def get_config(variant):\n    return quickstart['get_config']()\n"
    )
    trained = compare(
        f"--config={config}",
        f"--variants=4,{files[0]};4,{files[1]}",
        "--seeds=0",
        f"--workdir={tmp_path / 'runs'}",
        f"--output={tmp_path / 'out'}",
    )
    assert len({workdir for _, workdir in trained}) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--variants=a,a", "--seeds=0"], "names one twice"),
        (["--variants=a,b", "--seeds=0,0"], "--seeds = '0,0': give one or more, none twice"),
        (["--variants=a,b", "--seeds="], "--seeds = '': give one or more"),
        (["--variants=a,b", "--seeds=0", "--config.seed=3"], "--config.seed=3: --seeds says the seeds"),
    ],
)
def test_flags_that_say_two_things_are_refused(compare, tmp_path, flags, message) -> None:
    with pytest.raises(UserError, match=message):
        compare("--config=F", "--workdir=W", f"--output={tmp_path}", *flags)
