"""Tests the analysis in a report: laws, held-out checks and matched compute of complete and partial sweeps."""

import pytest

from tests.scaling.report.scaling_rows import MODELS, explode, make_rows
from wukong_jax.errors import UserError
from wukong_jax.scaling.law.matched_compute import AT_MOST, MEASURED, NOT_REACHED
from wukong_jax.scaling.report.analysis import FLOOR_AT_BAYES, FLOOR_FREE, PAPER, analyse, check_rows


def analyse_one(rows, **options):
    (results,) = analyse(rows, **{"reference": "Wukong", "baseline": "DLRM", "resamples": 200, **options})
    return results


def fit_of(results, model, form):
    (fit,) = [fit for fit in results.fits if (fit["model"], fit["form"]) == (model, form)]
    return fit


def test_laws_of_the_rows_come_back():
    results = analyse_one(make_rows())
    assert (results.loss, results.bayes_log_loss) == ("excess_log_loss", 0.41)
    law = results.laws["Wukong"]
    # Noise of 0.2 % over 3 seeds and 5 sizes: about three standard errors each.
    assert law.floor == pytest.approx(0.004, abs=6e-4)
    assert law.scale == pytest.approx(0.03, rel=0.02)  # at 1 MFLOP
    assert law.exponent == pytest.approx(0.5, abs=0.012)
    fit = fit_of(results, "Wukong", FLOOR_FREE)
    assert fit["exponent_low"] < law.exponent < fit["exponent_high"]
    assert fit["held_out_mflop"] == pytest.approx(0.05 * 3**4)
    assert fit["held_out_relative_error"] == pytest.approx(0, abs=0.05)
    # With the floor held at Bayes' the same points lie on no power law, and the held-out point shows it.
    wrong = fit_of(results, "Wukong", FLOOR_AT_BAYES)
    assert wrong["relative_error"] > 3 * fit["relative_error"]
    assert wrong["held_out_covered"] is False


def test_three_sizes_hold_a_free_floor_but_no_check_of_it():
    results = analyse_one(make_rows())
    fit = fit_of(results, "DLRM", FLOOR_FREE)
    assert fit["problem"] == "passes through its points"
    assert fit["held_out_problem"] == "2 points for 3 parameters"
    assert fit_of(results, "DLRM", FLOOR_AT_BAYES)["held_out_mflop"] == pytest.approx(0.36)
    assert results.matches["DLRM"].law.floor_is_free is False  # extrapolation is kind rather than made of nothing
    assert "FM" not in {fit["model"] for fit in results.fits}  # a point


def test_the_papers_form_is_relative_to_the_baselines_smallest_size():
    fit = fit_of(analyse_one(make_rows()), "DLRM", PAPER)
    assert fit["baseline"] == "DLRM s0"
    smallest = fit["scale"] * (0.04e-3) ** -fit["exponent"]  # in GFLOP; itself relative to itself
    assert smallest == pytest.approx(100, abs=1.5)
    assert fit["scale_low"] < fit["scale"] < fit["scale_high"]
    assert PAPER not in {fit["form"] for fit in analyse_one(make_rows(), baseline="DCNv2").fits}


def test_compute_to_match_is_of_each_size_of_the_reference():
    results = analyse_one(make_rows())
    assert list(results.matches) == ["DLRM", "FM"]
    assert results.reference_sizes == [f"s{i}" for i in range(5)]
    kinds = [point.kind for point in results.matches["DLRM"].points]
    assert kinds[0] == MEASURED
    assert kinds[-1] == "extrapolated"
    assert [point.kind for point in results.matches["FM"].points] == [AT_MOST, *[NOT_REACHED] * 4]
    assert analyse_one(make_rows(), reference="DCNv2").matches == {}


def test_data_without_a_bayes_loss_is_read_by_its_log_loss():
    results = analyse_one(make_rows(bayes=None))
    assert (results.loss, results.bayes_log_loss, results.is_excess) == ("log_loss", None, False)
    assert {fit["form"] for fit in results.fits} == {FLOOR_FREE, PAPER}
    assert results.laws["Wukong"].floor == pytest.approx(0.414, abs=1e-3)


def test_a_size_that_exploded_has_no_point_in_curves():
    rows = make_rows()
    last = next(i for i, row in enumerate(rows) if row["model"] == "Wukong" and row["size"] == "s4" and row["final"])
    rows[last] = explode(rows[last], 3)
    results = analyse_one(rows)
    assert results.reference_sizes == [f"s{i}" for i in range(4)]
    assert len(results.matches["DLRM"].points) == 4
    assert fit_of(results, "Wukong", FLOOR_FREE)["points"] == 4
    assert len(results.final["Wukong"]) == 5  # the table still has it


def test_a_sweep_that_has_just_begun_has_nothing_to_say_yet():
    results = analyse_one(make_rows({"Wukong": MODELS["Wukong"]}, passes=(0.5,)))
    assert (results.final, results.fits, results.matches) == ({}, [], {})
    assert results.models == ["Wukong"]
    assert analyse([], "Wukong", "DLRM") == []


def test_one_seed_gives_laws_without_intervals():
    fit = fit_of(analyse_one(make_rows(seeds=1)), "Wukong", FLOOR_FREE)
    assert "exponent_low" not in fit
    assert fit["held_out_covered"] is None


def test_data_sets_are_told_apart():
    rows = make_rows() + make_rows({"Wukong": MODELS["Wukong"]}, data="field aware")
    first, second = analyse(rows, "Wukong", "DLRM", resamples=20)
    assert (first.name, first.models) == ("factorized", list(MODELS))
    assert (second.name, second.models) == ("field aware", ["Wukong"])


@pytest.mark.parametrize("key", ["options", "excess_log_loss_values", "errors"])
def test_a_row_that_lacks_a_key_is_named(key):
    rows = make_rows()
    del rows[3][key]
    with pytest.raises(UserError, match=rf"rows\[3\] has no '{key}'"):
        check_rows(rows)
