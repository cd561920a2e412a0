"""Tests the calibration of scores: against slow twins, in an artefact, and where it is refused."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit, logit

from tests.cli.command import run_command
from tests.serving.conftest import draw_shop_rows, open_on_one_device
from wukong_jax.errors import UserError
from wukong_jax.serving import load_scorer
from wukong_jax.serving.export import export_run
from wukong_jax.serving.recalibration import LogitMap, fit_isotonic, fit_maps, fit_platt

ROWS = st.lists(
    st.tuples(st.sampled_from([-2.0, -0.5, 0.0, 0.3, 1.0, 4.0]), st.booleans(), st.sampled_from([0.5, 1.0, 3.0])),
    min_size=2,
    max_size=25,
)


def fit_isotonic_slowly(logits, labels, mass):
    """The min-max formula: the largest, over rows up to this one, of the least mean of rows from there on."""
    values = sorted(set(logits))
    fitted = {}
    for value in values:
        means = [
            min(
                np.average(labels[(logits >= low) & (logits <= high)], weights=mass[(logits >= low) & (logits <= high)])
                for high in values
                if high >= value
            )
            for low in values
            if low <= value
        ]
        fitted[value] = max(means)
    return fitted


@settings(max_examples=100, deadline=None, derandomize=True)
@given(ROWS)
def test_isotonic_maps_are_those_of_the_min_max_formula(rows):
    logits, labels, mass = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    found = fit_isotonic(logits, labels, mass)
    least = 0.5 / (mass.sum() + 1)
    for value, rate in fit_isotonic_slowly(logits, labels, mass).items():
        expected = logit(np.clip(rate, least, 1 - least))
        assert found.apply(np.array([value]))[0] == pytest.approx(expected, abs=1e-9)
    line = found.apply(np.linspace(-9, 9, 200))
    assert (np.diff(line) >= -1e-12).all()
    assert line[0] == found.values[0]
    assert line[-1] == found.values[-1]


def test_platt_scaling_has_the_least_log_loss():
    random = np.random.default_rng(0)
    logits = random.normal(size=2000)
    labels = (random.random(2000) < expit(0.4 * logits - 1)).astype(float)
    mass = random.gamma(1, 1, 2000)
    found = fit_platt(logits, labels, mass)

    def loss(weights):
        scores = weights[0] * logits + weights[1]
        return np.dot(mass, np.logaddexp(0, scores) - labels * scores)

    twin = minimize(loss, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10, "maxiter": 2000})
    np.testing.assert_allclose([found.slope, found.values[0]], twin.x, atol=1e-6)
    # The least log loss has the sums of the labels.
    assert np.dot(mass, expit(found.apply(logits))) == pytest.approx(np.dot(mass, labels), rel=1e-9)


def test_weights_masks_and_objectives_are_apart():
    rows = {
        "logits": np.array([[0.0, 1.0], [1.0, -1.0], [2.0, 0.5], [9.0, 2.0]], np.float32),
        "labels": np.array([[0, 1], [1, 0], [1, 1], [0, 0]], np.float32),
        "label_mask": np.array([[1, 1], [1, 1], [1, 1], [0, 1]], np.float32),
        "weight": np.array([1, 2, 1, 1], np.float32),
    }
    first, second = fit_maps("isotonic", rows, ("a", "b"))
    assert first.knots.tolist() == [0, 1, 2]
    assert second.knots.tolist() == [-1, 0.5, 1, 2][: len(second.knots)] or second.knots.tolist() == [-1, 0.5, 2]
    rows["labels"][:, 0] = 1
    with pytest.raises(UserError, match="--calibrate = 'platt': its rows have one class of labels only of a"):
        fit_maps("platt", rows, ("a", "b"))
    rows["labels"][:, 0] = [1, 0, 0, 0]
    with pytest.raises(UserError, match="the logits of a do not rise with its labels"):
        fit_maps("platt", rows, ("a", "b"))


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_an_artefact_scores_with_its_calibration(shop, kind, tmp_path):
    said = []
    opened = open_on_one_device(shop / "run")
    export_run(opened, tmp_path / "served", calibrate=kind, calibrate_on="train", evaluate="train", say=said.append)
    scorer, plain = load_scorer(tmp_path / "served"), load_scorer(shop / "served")
    rows = draw_shop_rows(seed=5)
    columns = scorer.encode(rows)
    logits = plain.compute_logits(columns["ids"], columns["dense"], columns["domain"])
    maps = fit_maps(kind, opened.score_split("train"), scorer.manifest.objectives)
    expected = np.stack([expit(own.apply(logits[:, place])) for place, own in enumerate(maps)], axis=1)
    np.testing.assert_allclose(scorer.score(rows), expected, rtol=1e-6)
    assert np.abs(scorer.score(rows) - plain.score(rows)).max() > 1e-3
    assert scorer.manifest.calibration == {"kind": kind, "split": "train"}
    (line,) = [text for text in said if "calibration" in text]
    assert float(line.rpartition(" ")[2]) == pytest.approx(1, abs=2e-3 if kind == "platt" else 0.05)
    (tmp_path / "served" / "calibration.npz").write_bytes(b"x")
    with pytest.raises(UserError, match=r"calibration\.npz: has 1 bytes instead of"):
        load_scorer(tmp_path / "served")


def test_a_calibration_that_is_missing_or_not_rising_is_told(shop, tmp_path):
    opened = open_on_one_device(shop / "run")
    with pytest.raises(UserError, match="--calibrate_on = 'other': the data has only train, validation, test"):
        export_run(opened, tmp_path / "served", calibrate="isotonic", calibrate_on="other")
    with pytest.raises(UserError, match="the run has no period that was scored before"):
        export_run(opened, tmp_path / "served", calibrate="isotonic", calibrate_on="progressive")
    scorer = export_run(opened, tmp_path / "served", calibrate="isotonic", say=lambda text: None)
    np.savez(tmp_path / "served" / "calibration.npz", **{"0/knots": np.zeros(1), "0/values": np.zeros(1)})
    manifest = json.loads((tmp_path / "served" / "manifest.json").read_text(encoding="utf-8"))
    del manifest["files"]["calibration.npz"]
    (tmp_path / "served" / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(UserError, match=r"lists no file 'calibration\.npz'"):
        load_scorer(tmp_path / "served")
    assert isinstance(scorer.calibration[0], LogitMap)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--format=onnx", "--calibrate=platt"], "--calibrate = 'platt': not possible with --format=onnx"),
        (["--calibrate_on=test"], "--calibrate_on = 'test': has no effect without --calibrate"),
    ],
)
def test_flags_without_an_effect_are_refused(flags, message):
    with pytest.raises(UserError) as caught:
        run_command("export", "--workdir=x", "--output=y", *flags)
    assert str(caught.value).startswith(message)
