"""Tests that an artefact scores rows as the run does, without the run's code."""

import functools
import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import polars as pl
import pytest

from tests.cli.command import run_command
from tests.repository import ROOT
from tests.serving.conftest import draw_shop_rows, open_on_one_device
from wukong_jax.errors import UserError
from wukong_jax.serving import load_scorer

BLOCKED = ("flax", "optax", "orbax", "grain", "ml_collections", "chex", "absl", "array_record", "matplotlib", "rich")


@functools.cache
def open_cached(folder):
    return open_on_one_device(folder / "run")


@functools.cache
def load_cached(folder, buckets=(1, 16, 64)):
    return load_scorer(folder / "served", buckets)


@functools.cache
def predict_all(folder):
    return open_cached(folder).predict(folder / "rows.csv")


def rows_of(folder):
    return pl.read_csv(folder / "rows.csv", infer_schema=False).fill_null("").to_dicts()


def test_scores_are_the_runs_to_the_last_digit_in_batches_of_its_size(shop):
    scorer, expected = load_cached(shop), predict_all(shop)
    rows = rows_of(shop)
    found = np.concatenate([scorer.score(rows[start : start + 64]) for start in range(0, len(rows), 64)])
    whole = len(rows) // 64 * 64
    assert (found[:whole] == expected[:whole]).all()
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.dtype == np.float64
    assert found.shape == (600, 2)
    assert np.ptp(found[:, 0]) > 0.01


@pytest.mark.parametrize("rows", [1, 2, 16, 17, 64, 65, 200])
def test_any_number_of_rows_scores_like_one(shop, rows):
    expected = predict_all(shop)[:rows]
    # Another batch size may add in another order: a few units in the last place of float32.
    np.testing.assert_allclose(load_cached(shop).score(rows_of(shop)[:rows]), expected, rtol=1e-6)


def test_frames_mappings_and_typed_rows_score_alike(shop):
    scorer, frame = load_cached(shop), draw_shop_rows()
    expected = predict_all(shop)
    columns = {name: frame[name].to_list() for name in frame.columns if name not in ("click", "buy")}
    typed = frame.head(64).to_dicts()
    bags = [
        row | {name: [part for part in row[name].split("|") if part] for name in ("tags", "visited")} for row in typed
    ]
    for rows in (frame, columns):
        np.testing.assert_allclose(scorer.score(rows), expected, rtol=1e-6)
    for rows in (typed, bags):
        np.testing.assert_allclose(scorer.score(rows), expected[:64], rtol=1e-6)
    assert scorer.score([]).shape == (0, 2)


def test_arrays_score_like_rows(shop):
    scorer, opened = load_cached(shop), open_cached(shop)
    batch = next(opened.read_split("test"))
    real = batch.weight > 0
    expected = opened.predict_batch(batch)
    found = scorer.compute_logits(batch.ids, batch.dense, batch.domain)
    assert (found == np.asarray(expected)).all()
    assert real.any()
    int64 = scorer.compute_logits(batch.ids.astype(np.int64), batch.dense.tolist(), batch.domain.tolist())
    assert (int64 == found).all()
    # An id beyond its table is no id, whatever its size.
    beyond = batch.ids.astype(np.int64)
    beyond[:, 0] = 2**40
    beyond[1, 0] = -5
    none = batch.ids.copy()
    none[:, 0] = -1
    limits = np.full_like(none[:, 0], 2**31 - 1)
    assert np.isfinite(scorer.compute_logits(beyond, batch.dense, batch.domain)).all()
    far = none.copy()
    far[:, 0] = limits
    # Tokens of ids beyond the table are zero vectors but present, as in training.
    np.testing.assert_array_equal(
        scorer.compute_logits(far, batch.dense, batch.domain),
        np.asarray(opened.predict_batch(batch._replace(ids=far))),
    )


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"ids": [[1, 2]]}, r"ids: has shape \[1, 2\]; give \[1, 9\]"),
        ({"ids": np.zeros((2, 9))}, "ids: holds float64; give integers"),
        ({"ids": [["a"] * 9]}, "ids: holds <U1; give integers"),
        ({"ids": [[1] * 9, [1]]}, r"ids: no array \(ValueError"),
        ({"dense": None}, r"dense: no array|dense: holds object"),
        ({"dense": np.zeros((1, 3))}, r"dense: has shape \[1, 3\]; give \[1, 2\]"),
        ({"domain": [2]}, "domain: from 2 to 2; give domains from 0 to 1"),
        ({"domain": [-1]}, "domain: from -1 to -1"),
        ({"extras": {"x": [[1.0]]}}, "extras: x; this artefact needs none"),
    ],
)
def test_wrong_arrays_are_one_line(shop, arrays, message):
    given = {"ids": np.zeros((1, 9), int), "dense": np.zeros((1, 2)), "domain": [0]} | arrays
    with pytest.raises(UserError, match=message) as error:
        load_cached(shop).score_arrays(**given)
    assert "\n" not in str(error.value)


def test_bad_rows_do_not_keep_others_from_being_scored(shop):
    scorer, rows = load_cached(shop), rows_of(shop)[:6]
    rows[1] = rows[1] | {"price": "much"}
    rows[3] = {"price": 1}
    rows[4] = rows[4] | {"site": "mars"}
    answers = scorer.score_each(rows)
    assert answers[1] == "rows, line 2, column 'price' = 'much': expected a number; fix the row"
    assert answers[3].startswith("rows, line 4, no column 'clicks'")
    assert "expected a domain of training rows (a, b)" in answers[4]
    for place in (0, 2, 5):
        np.testing.assert_allclose(answers[place], predict_all(shop)[place], rtol=1e-6)
    with pytest.raises(UserError, match="rows, line 2, column 'price'"):
        scorer.score(rows)


def test_scoring_needs_no_flax_and_no_model_code(shop):
    program = f"""
        import sys

        class Blocker:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in {BLOCKED!r} or name.startswith(("wukong_jax.models", "dmt", "lattice")):
                    raise ImportError("blocked: " + name)

        sys.meta_path.insert(0, Blocker())
        import json
        from wukong_jax.serving import load_scorer

        rows = json.load(open({str(shop / "some.json")!r}, encoding="utf-8"))
        print(json.dumps(load_scorer({str(shop / "served")!r}, buckets=(16,)).score(rows).tolist()))
        if {{"flax", "optax", "wukong_jax.config", "wukong_jax.training"}} & set(sys.modules):
            sys.exit("imported too much")
    """
    (shop / "some.json").write_text(json.dumps(rows_of(shop)[:5]), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout), predict_all(shop)[:5], rtol=1e-6)


def test_the_command_says_what_rounded_tables_cost(shop, tmp_path, capsys):
    flags = [f"--workdir={shop / 'run'}", f"--output={tmp_path / 'small'}", "--tables=int8", "--evaluate=test"]
    run_command("export", *flags, "--platforms=cpu")
    said = capsys.readouterr().out
    assert "golden rows: logits differ by at most" in said
    assert "test auc: run 0." in said
    scorer = load_scorer(tmp_path / "small", (64,))
    assert scorer.manifest.platforms == ("cpu",)
    assert {table.dtype for table in scorer.manifest.tables} == {"int8"}
    measured = scorer.manifest.metrics
    assert measured["test of the run"]["log_loss"] == pytest.approx(measured["test"]["log_loss"])
    assert measured["test of the artefact"]["log_loss"] != measured["test of the run"]["log_loss"]
    found, expected = scorer.score(rows_of(shop)), predict_all(shop)
    assert 0 < np.abs(found - expected).max() < 0.02
    sizes = {name: file.bytes for name, file in scorer.manifest.files.items() if name.startswith("tables/")}
    floats = load_cached(shop).manifest.files
    assert sum(sizes.values()) < 0.6 * sum(f.bytes for n, f in floats.items() if n.startswith("tables/"))
