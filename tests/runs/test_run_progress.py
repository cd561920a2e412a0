import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wukong_jax.config import TrainingConfig
from wukong_jax.runs.progress import RunProgress, go_on, record_evaluation
from wukong_jax.training.loop import ALL_DONE

NAN = float("nan")


def record(values, **settings):
    config = TrainingConfig(batch_size=1, steps=1, **settings)
    progress, best = RunProgress(), []
    for step, value in enumerate(values, 1):
        progress, is_best = record_evaluation(progress, config, step, {"auc": value, "log_loss": value})
        best.append(is_best)
    return progress, best


def test_the_best_evaluation_is_kept():
    progress, best = record([0.6, 0.7, 0.65])
    assert best == [True, True, False]
    assert (progress.best_value, progress.best_step, progress.stalled_evaluations) == (0.7, 2, 1)


def test_log_loss_is_better_when_lower():
    progress, best = record([0.6, 0.7, 0.5], early_stop_metric="log_loss")
    assert best == [True, False, True]
    assert progress.best_step == 3


def test_patience_stops_and_plateaus_lower_the_learning_rate():
    progress, _ = record([0.7, 0.6, 0.6], early_stop_patience=2, plateau_factor=0.1)
    assert "2 evaluations" in progress.stopped_because
    assert math.isclose(progress.learning_rate_scale, 0.01)


def test_small_gains_below_the_minimum_do_not_count():
    progress, best = record([0.7, 0.7005], minimum_improvement=0.001)
    assert best == [True, False]
    assert progress.stalled_evaluations == 1


def test_a_metric_that_is_not_a_number_is_never_best():
    _, best = record([float("nan"), 0.5])
    assert best == [False, True]


def follow(values, higher_is_better, patience, factor, least):
    """Follows a run by its defined evaluations only: (best value, best's place, stop's place, learning-rate scale)."""
    best, place, stalls, scale = None, None, 0, 1.0
    for index, value in enumerate(values):
        gain = math.inf if best is None else (value - best) * (1 if higher_is_better else -1)
        if math.isfinite(value) and gain > least:
            best, place, stalls = value, index, 0
        else:
            stalls, scale = stalls + 1, scale * factor
            if patience and stalls >= patience:
                return best, place, index, scale
    return best, place, None, scale


@settings(max_examples=300, deadline=None)
@given(
    values=st.lists(st.sampled_from([NAN, math.inf, -math.inf, 0.2, 0.5, 0.51, 0.6, 0.9]), max_size=12),
    metric=st.sampled_from(["auc", "log_loss", "normalized_entropy"]),
    patience=st.integers(0, 3),
    factor=st.sampled_from([1.0, 0.5]),
    least=st.sampled_from([0.0, 0.05]),
)
def test_a_run_goes_as_if_undefined_evaluations_had_not_been_made(values, metric, patience, factor, least):
    settings = {"early_stop_patience": patience, "plateau_factor": factor, "minimum_improvement": least}
    config = TrainingConfig(batch_size=1, steps=1, early_stop_metric=metric, **settings)
    progress, bests, stopped = RunProgress(), [], None
    defined = [(step, value) for step, value in enumerate(values) if not math.isnan(value)]
    for step, value in enumerate(values):
        progress, best = record_evaluation(progress, config, step, {metric: value})
        bests += [step] if best else []
        if progress.stopped_because:
            stopped = step
            break
    value, place, stop, scale = follow([value for _, value in defined], metric == "auc", patience, factor, least)
    assert progress.best_value == value
    assert progress.best_step == (None if place is None else defined[place][0])
    assert bests[-1:] == ([] if place is None else [defined[place][0]])
    assert stopped == (None if stop is None else defined[stop][0])
    assert math.isclose(progress.learning_rate_scale, scale)


@pytest.mark.parametrize("value", [math.inf, -math.inf])
@pytest.mark.parametrize("metric", ["auc", "log_loss"])
def test_an_infinite_metric_is_never_best_but_a_stall(value, metric):
    _, best = record([value, 0.5], early_stop_metric=metric)
    assert best == [False, True]
    assert record([value], early_stop_metric=metric)[0].stalled_evaluations == 1


STOPPED = RunProgress(stalled_evaluations=2, stopped_because="no better auc in 2 evaluations")


def start_again(progress, step=30, total=100, patience=2):
    config = TrainingConfig(batch_size=1, steps=total, early_stop_patience=patience)
    after, message = go_on(progress, config, step, total)
    return after.stopped_because, message


def test_an_early_stop_stays_with_the_same_patience_and_says_what_may_change():
    because, message = start_again(STOPPED)
    assert because == "no better auc in 2 evaluations"
    assert "stopped early at step 30 (no better auc in 2 evaluations) and takes no more steps" in message
    assert "raise config.training.early_stop_patience = 2 (0: never stop early)" in message
    assert "training.epochs, training.early_stop_patience" in message
    assert "\n" not in message
    assert start_again(STOPPED, total=200)[0]  # as a run of 200 steps from the start would have stopped there


@pytest.mark.parametrize("patience", [0, 3])
def test_a_run_goes_on_after_an_early_stop_with_more_patience(patience):
    because, message = start_again(STOPPED, patience=patience)
    assert not because
    assert f"early_stop_patience = {patience}, it is going on to step 100" in message


def test_a_run_with_all_steps_done_goes_on_with_more_steps_only():
    done = RunProgress(stopped_because=ALL_DONE)
    assert start_again(done, 100, 100)[0] == ALL_DONE
    assert "raise config.training.steps or config.training.epochs" in start_again(done, 100, 100)[1]
    assert start_again(done, 100, 2200) == ("", "going on from step 100 of 2,200")
    assert start_again(STOPPED, 100, 100, patience=0)[0] == ALL_DONE


def test_progress_survives_json():
    progress, _ = record([0.7, 0.6])
    assert RunProgress.from_json(progress.to_json()) == progress
