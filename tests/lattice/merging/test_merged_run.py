"""Tests that one Lattice network trains on two logs of different schemas and is measured on each."""

import math

from tests.lattice.merging.made_sets import ADS, FEED, ROWS, make_ads, make_feed, prepare
from wukong_jax.cli.main import main
from wukong_jax.config import build_run_config
from wukong_jax.config_files import load_config
from wukong_jax.runs.train_run import train_run


def test_one_network_learns_from_two_logs(tmp_path, capsys):
    (_, feed), (_, ads) = prepare(tmp_path, FEED, make_feed, 32), prepare(tmp_path, ADS, make_ads, 16)
    main("merge_datasets", [f"--inputs=feed={feed},ads={ads}", f"--output={tmp_path / 'merged'}"])
    shown = capsys.readouterr().out
    assert "columns of all: age, user, item, shelf, tags" in shown
    assert "columns of ads, not of all: price, campaign" in shown
    assert "labels of feed, not of all: like" in shown
    assert "rows: by time; wrote" in shown

    config = load_config("lattice/prepared")
    config.data.path = str(tmp_path / "merged")
    config.training.batch_size = 32
    config.training.epochs = 1
    config.mesh.chips = 1
    config.model.options.layers = 1
    config.model.options.fusion.hidden = (8,)
    summary = train_run(build_run_config(config), str(tmp_path / "run"), print)
    assert summary["step"] == math.ceil(2 * ROWS["train"] / 32)

    metrics = summary["test"]
    rows = {name: count for name, count in metrics.items() if name.endswith("/rows") and name.count("/") > 1}
    assert rows["ads/click/rows"] == ROWS["test"]
    assert rows["ads/like/rows"] == rows["feed/home/buy/rows"] == rows["feed/shop/buy/rows"] == 0
    assert rows["feed/home/like/rows"] + rows["feed/shop/like/rows"] == ROWS["test"]
    for name in ("ads/click", "ads/buy", "feed/home/click", "feed/shop/like"):
        assert 0 < metrics[f"{name}/log_loss"] < 2
    output = tmp_path / "scores.csv"
    raw = tmp_path / "raw_ads" / "test.csv"
    main("predict", [f"--workdir={tmp_path / 'run'}", f"--input={raw}", f"--output={output}", "--data_set=ads"])
    header, *lines = output.read_text().splitlines()
    assert header == "click,like,buy"
    assert len(lines) == ROWS["test"]
