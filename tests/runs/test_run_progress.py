import math

from wukong_jax.config import TrainingConfig
from wukong_jax.runs.progress import RunProgress, record_evaluation


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


def test_progress_survives_json():
    progress, _ = record([0.7, 0.6])
    assert RunProgress.from_json(progress.to_json()) == progress
