import contextlib
import dataclasses
import json
import types

import numpy as np
import pytest
from ml_collections import ConfigDict

from lattice.sketch import search as sketch_module
from lattice.sketch.objective import compute_objective
from lattice.sketch.search import Sketch, list_rungs, read_validation
from lattice.sketch.space import build_sketch_config, start_sketch_config
from lattice.sketch.trials import Trial, choose_best, is_hopeless, suggest_values
from tests.runs.test_early_stop import write_rows
from wukong_jax.config import build_run_config
from wukong_jax.config_files import load_config
from wukong_jax.errors import NotFiniteLossError, UserError
from wukong_jax.runs.folder import RunFolder
from wukong_jax.runs.train_run import train_run
from wukong_jax.training.loop import ALL_DONE

STEPS, EVERY = 12, 3  # of a run: 1500 rows in batches of 128
WIDTH, LAYERS = "model.options.deep_hidden.0", "model.options.deep_hidden.1"


def make_config(run=None, **search):
    config = start_sketch_config()
    config.name = "a run"
    config.data.factory = "planted_clicks"
    config.data.options = ConfigDict({"fields": 4, "values_per_field": 5, "train_rows": 1500})
    config.data.options.update({"validation_rows": 300, "test_rows": 300})
    config.embeddings.width = 4
    config.embeddings.optimizer.kind = "lazy_adam"
    config.embeddings.optimizer.learning_rate = 1e-2
    config.model.factory = "wukong_jax.models.dnn:build"
    config.model.options = {"deep_hidden": (32, 8)}
    config.optimizer.learning_rate = 1e-2
    config.training.batch_size = 128
    config.training.epochs = 1
    config.training.evaluate_every_steps = EVERY
    config.training.checkpoint_every_steps = 100
    config.mesh.chips = 1
    config.search.space = {
        "model": {
            "options": {
                "deep_hidden": {"0": {"low": 4, "high": 64, "step": 4, "log": True}, "1": {"low": 1, "high": 9}}
            }
        }
    }
    config.search.startup_trials = 3
    for key, value in (run or {}).items():
        config[key] = value
    for key, value in search.items():
        config.search[key] = value
    return build_sketch_config(config)


class StandIn:
    """Replaces building and training of models by formulas for AUC and FLOPs; counts stages; can simulate a kill."""

    def __init__(self, patch, die_after=None, explode=(), stop_early=()):
        self.stages, self.die_after, self.explode, self.stop_early = [], die_after, explode, stop_early
        patch.setattr(sketch_module, "train_run", self.train)
        patch.setattr(sketch_module, "build_run", self.build_run)
        patch.setattr(sketch_module, "describe_size", lambda run, params: run.size)

    def build_run(self, config, schema):
        width, layers = config.model.options["deep_hidden"]
        if layers == 9:
            raise UserError("layers = 9: too deep")
        size = {"train_flops_per_example": 1e3 * width * layers, "dense_parameters": width * layers}
        return types.SimpleNamespace(size=size, abstract_state=lambda: types.SimpleNamespace(params=None))

    def auc_at(self, config, step):
        width, layers = config.model.options["deep_hidden"]
        return 0.8 - (np.log2(width / 16) ** 2 + (layers - 4) ** 2) / 100 - 0.1 * (1 - step / STEPS)

    def train(self, config, workdir, say):
        layers = config.model.options["deep_hidden"][1]
        folder = sketch_module.Path(workdir)
        RunFolder(folder).cut_back_metrics(STEPS)
        done = max((step for step, _ in read_validation(folder)), default=0)
        end = min(config.training.steps or STEPS, 6 if layers in self.stop_early else STEPS)
        if config.training.steps is None or done < config.training.steps:
            self.stages.append((folder.name, done, end))
        for step in range(done + EVERY, end + 1, EVERY):
            if self.die_after == len(self.stages):
                with (folder / "metrics.jsonl").open("a") as file:
                    file.write('{"step": ' + str(step))  # torn
                raise SystemExit(143)
            if layers in self.explode and step > 6:
                raise NotFiniteLossError(f"loss at step {step} is not finite")
            with (folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": step, "split": "validation", "auc": self.auc_at(config, step)}) + "\n")
        auc = self.auc_at(config, end)
        reached = end == min(config.training.steps or STEPS, STEPS)
        reason = ALL_DONE if reached else "no better auc in 1 evaluations"
        return {"stopped_because": reason, "validation": {"auc": auc}, "test": {"auc": auc - 0.01, "rows": 300}}


def search_in(folder, config, patch, draws=False, **stand_in):
    trainer = StandIn(patch, **stand_in)
    patch.setattr(sketch_module, "keep_programs_in", lambda folder: contextlib.nullcontext())
    if not draws:
        patch.setattr(sketch_module, "draw_trials", lambda *arguments: b"")
    sketch = Sketch(config, folder, say=lambda text: None)
    return sketch, trainer, sketch.run()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Returns a search that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        sketch, trainer, best = search_in(folder, make_config(trials=14, budget_flops=1.5e5), patch, draws=True)
    return folder, sketch, trainer, best


def test_search_starts_by_hand_and_finds_a_better_model_within_the_budget(whole):
    _, sketch, _, best = whole
    first = sketch.trials[0]
    assert first.values == {WIDTH: 32, LAYERS: 8}
    assert (first.state, first.within_budget) == ("complete", False)
    assert "2.56e+05 training FLOPs per example: the budget is 1.5e+05" in first.reason
    assert best.state == "complete"
    assert best.flops <= 1.5e5
    assert best.objective > first.objective
    assert best.objective == max(t.objective for t in sketch.trials if t.objective and t.within_budget)
    assert best.objective == pytest.approx(best.auc / best.flops**0.003)
    assert sum(trial.was_trained for trial in sketch.trials) == 14
    for trial in sketch.trials:
        assert trial.values[WIDTH] % 4 == 0
    points = [tuple(trial.values.values()) for trial in sketch.trials]
    assert len(set(points)) == len(points)


def test_what_breaks_the_budget_or_is_refused_is_never_trained(whole):
    _, sketch, trainer, _ = whole
    refused = [trial for trial in sketch.trials if trial.state == "refused"]
    assert any("the budget is 1.5e+05" in trial.reason for trial in refused)
    assert not {f"{trial.number:04d}" for trial in refused} & {stage[0] for stage in trainer.stages}
    for trial in refused:
        assert trial.values[LAYERS] == 9 or trial.values[WIDTH] * trial.values[LAYERS] > 150
        assert trial.objective is None


def test_poor_trials_are_stopped_at_a_rung_by_the_median_of_objectives(whole):
    _, sketch, trainer, _ = whole
    pruned = [trial for trial in sketch.trials if trial.state == "pruned"]
    assert pruned
    for trial in sketch.trials[1:]:
        if not trial.was_trained:
            continue
        earlier = [t for t in sketch.trials[: trial.number] if t.state == "complete"]
        poor_at = None
        for rung in (3, 6):
            others = [compute_objective(dict(t.evaluations)[rung], t.flops) for t in earlier]
            own = max(compute_objective(auc, trial.flops) for step, auc in trial.evaluations if step <= rung)
            if poor_at is None and len(earlier) >= 3 and own < np.median(others):
                poor_at = rung
        assert (trial.state == "pruned") == (poor_at is not None)
        assert max(step for step, _ in trial.evaluations) == (poor_at or STEPS)
        last = [end for name, _, end in trainer.stages if name == f"{trial.number:04d}"][-1]
        assert last == (poor_at or STEPS)


@pytest.mark.parametrize("die_after", [1, 2, 9, 16])
def test_killed_search_started_again_equals_one_never_stopped(whole, tmp_path, monkeypatch, die_after):
    folder, sketch, trainer, _ = whole
    config = make_config(trials=14, budget_flops=1.5e5)
    with pytest.raises(SystemExit):
        search_in(tmp_path, config, monkeypatch, die_after=die_after)
    assert json.loads((tmp_path / "sketch.json").read_text())["trials"][-1]["state"] == "running"
    again, second, _ = search_in(tmp_path, config, monkeypatch)
    assert again.trials == sketch.trials
    assert (tmp_path / "sketch.json").read_text() == (folder / "sketch.json").read_text()
    assert second.stages == trainer.stages[die_after - 1 :]  # what had ended is not trained again


def test_finished_search_trains_nothing_and_more_trials_go_on(whole, tmp_path, monkeypatch):
    _, sketch, trainer, _ = whole
    short, first, _ = search_in(tmp_path, make_config(trials=4, budget_flops=1.5e5), monkeypatch)
    assert sum(trial.was_trained for trial in short.trials) == 4
    same, none, best = search_in(tmp_path, make_config(trials=4, budget_flops=1.5e5), monkeypatch)
    assert none.stages == []
    assert (same.trials, best) == (short.trials, choose_best(short.trials))
    longer, second, _ = search_in(tmp_path, make_config(trials=14, budget_flops=1.5e5), monkeypatch)
    assert longer.trials == sketch.trials
    assert first.stages + second.stages == trainer.stages


@pytest.mark.parametrize(
    ("changed", "key"),
    [({"seed": 1}, "search.seed"), ({"run": {"seed": 1}}, "seed"), ({"budget_flops": 2e5}, "search.budget_flops")],
)
def test_folder_of_another_search_is_refused(whole, changed, key):
    folder, *_ = whole
    settings = {"trials": 14, "budget_flops": 1.5e5} | changed
    with pytest.raises(UserError, match=f"config.{key} = .*: the search in .* was started with .*; give another"):
        Sketch(make_config(**settings), folder)


def test_file_that_is_no_search_s_is_refused(tmp_path):
    (tmp_path / "sketch.json").write_text('{"run": {')
    with pytest.raises(UserError, match=r"sketch\.json, line 1: not JSON"):
        Sketch(make_config(), tmp_path)
    (tmp_path / "sketch.json").write_text("{}")
    with pytest.raises(UserError, match=r"sketch\.json: has no 'optuna'"):
        Sketch(make_config(), tmp_path)


def test_search_of_an_earlier_version_goes_on_without_start_logits(tmp_path, monkeypatch):
    sketch, *_ = search_in(tmp_path, make_config(trials=2), monkeypatch)
    assert sketch.config.build_run(sketch.config.hand_made).training.start_at_rate
    path = tmp_path / "sketch.json"
    stored = json.loads(path.read_text())
    del stored["run"]["training"]["start_at_rate"]
    path.write_text(json.dumps(stored))
    for trials in (3, 4):  # twice, since the first time writes the file anew
        again, *_ = search_in(tmp_path, make_config(trials=trials), monkeypatch)
        assert not again.config.build_run(again.config.hand_made).training.start_at_rate
        assert "start_at_rate" not in json.loads(path.read_text())["run"]["training"]
    assert len(again.trials) == 4


def test_validation_rows_of_one_class_are_refused_before_anything_is_trained(tmp_path):
    data = write_rows(tmp_path / "rows", lambda split, labels, domain: labels * (split != "validation"))
    with pytest.raises(UserError, match="labels of one class, so the AUC to search by is not defined"):
        Sketch(make_config(run={"data": data}), tmp_path / "search")


def test_best_config_is_a_run_with_the_search_s_own_rows(whole):
    folder, sketch, _, best = whole
    run = build_run_config(json.loads((folder / "best_config.json").read_text()))
    assert run == sketch.config.build_run(best.values)
    assert run.data.factory == "planted_clicks"
    assert build_run_config(load_config(str(folder / "best_config.py"))) == run
    assert (folder / "sketch.png").read_bytes()[:4] == b"\x89PNG"


def test_explosion_and_the_run_s_own_early_stop_end_a_trial(tmp_path, monkeypatch):
    config = make_config(trials=12, rungs=())
    sketch, trainer, best = search_in(tmp_path, config, monkeypatch, explode=(1, 2, 3), stop_early=(5, 6, 7))
    exploded = [t for t in sketch.trials if t.was_trained and t.values[LAYERS] in (1, 2, 3)]
    stopped = [t for t in sketch.trials if t.was_trained and t.values[LAYERS] in (5, 6, 7)]
    assert exploded
    assert stopped
    assert {(t.state, t.reason) for t in exploded} == {("pruned", "loss at step 9 is not finite")}
    assert {(t.state, t.evaluations[-1][0]) for t in stopped} == {("complete", 6)}
    assert best.state == "complete"
    assert len(trainer.stages) == 12  # without rungs a trial is one training


def test_early_stop_before_a_rung_is_not_judged_again(tmp_path, monkeypatch):
    space = {"model": {"options": {"deep_hidden": {"0": {"low": 4, "high": 64}}}}}
    config = make_config(trials=2, rungs=(0.75,), space=space)
    sketch, trainer, _ = search_in(tmp_path, config, monkeypatch, stop_early=(8,))
    assert [trial.state for trial in sketch.trials] == ["complete"] * 2
    assert [stage[1:] for stage in trainer.stages] == [(0, 6), (6, 6)] * 2


def test_budget_that_nothing_keeps_is_refused_with_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(sketch_module, "MOST_REFUSED", 6)
    with pytest.raises(UserError, match=r"no complete trial of 7 keeps the budget \(6 were refused; the least had"):
        search_in(tmp_path, make_config(budget_flops=1.0), monkeypatch)


def test_used_up_space_ends_the_search(tmp_path, monkeypatch):
    space = {"model": {"options": {"deep_hidden": {"1": {"low": 7, "high": 9}}}}}
    sketch, _, best = search_in(tmp_path, make_config(space=space), monkeypatch)
    assert sorted(trial.values[LAYERS] for trial in sketch.trials) == [7, 8, 9]
    assert best.values[LAYERS] == 7


def test_time_budget_refuses_slow_models_and_is_measured_once(tmp_path, monkeypatch):
    timed = []

    def measure(run, data, rows, repeats):
        timed.append((rows, repeats))
        return run.size["dense_parameters"] / 10

    monkeypatch.setattr(sketch_module, "measure_predict_milliseconds", measure)
    config = make_config(trials=5, budget_milliseconds=20.0, latency_rows=64)
    sketch, _, best = search_in(tmp_path, config, monkeypatch)
    counted = [trial for trial in sketch.trials if trial.flops is not None]
    assert timed == [(64, 15)] * len(counted)
    assert sketch.trials[0].reason == "25.6 ms per predict step: the budget is 20"
    assert best.milliseconds <= 20
    assert {trial.state for trial in counted if trial.milliseconds > 20 and trial.number} <= {"refused"}
    search_in(tmp_path, config, monkeypatch)
    assert len(timed) == len(counted)


def test_rungs_are_the_evaluations_nearest_to_the_shares(whole):
    _, sketch, _, _ = whole
    run = sketch.config.build_run(sketch.config.hand_made)
    assert list_rungs(run, sketch.data, (0.25, 0.5)) == [3, 6]
    assert list_rungs(run, sketch.data, (0.01, 0.02, 0.7, 0.99)) == [3, 9]  # 0.01 and 0.02 meet; 0.99 is the end
    by_epoch = dataclasses.replace(run, training=dataclasses.replace(run.training, evaluate_every_steps=0, epochs=4))
    assert list_rungs(by_epoch, sketch.data, (0.25, 0.5)) == [12, 24]
    assert list_rungs(run, sketch.data, ()) == []


def test_suggestions_depend_on_the_past_the_seed_and_the_number_alone():
    options = make_config().search
    past = [
        Trial(i, {WIDTH: 4 * (i + 1), LAYERS: i + 1}, "complete", flops=1e5, auc=0.7 + i / 100, objective=0.7 + i / 100)
        for i in range(6)
    ]
    first = suggest_values(past, options, 6)
    assert suggest_values(past, options, 6) == first
    assert any(suggest_values(past, options, number) != first for number in (7, 8, 9))
    assert any(suggest_values(past, dataclasses.replace(options, seed=seed), 6) != first for seed in (1, 2, 3))
    best_last, best_first = past, [dataclasses.replace(t, objective=0.9 - t.objective) for t in past]
    means = [np.mean([suggest_values(p, options, n)[LAYERS] for n in range(40)]) for p in (best_first, best_last)]
    assert means[0] + 1 < means[1]  # it goes where it was good


def test_refused_points_are_learned_from_and_do_not_end_the_random_start():
    options = make_config().search
    refused = [Trial(i, {WIDTH: 64, LAYERS: 1 + i}, "refused", flops=1e9) for i in range(8)]
    good = [
        Trial(8 + i, {WIDTH: 4 + 4 * i, LAYERS: 5}, "complete", flops=1e5, auc=0.7, objective=0.6) for i in range(3)
    ]
    drawn = [suggest_values([*refused, *good], options, number)[WIDTH] for number in range(40)]
    assert np.mean(drawn) < 30
    startup = dataclasses.replace(options, startup_trials=4)  # only three are trained: still at random
    at_random = [suggest_values([*refused, *good], startup, number) for number in range(5)]
    assert at_random == [suggest_values([*refused, *good[:2]], startup, number) for number in range(5)]


def test_median_rule_waits_for_enough_trials_and_prices_flops():
    options = make_config(startup_trials=2).search

    def ended(flops, auc):
        return Trial(0, {WIDTH: 4, LAYERS: 1}, "complete", flops=flops, evaluations=((3, auc),), auc=auc, objective=auc)

    past = [ended(1e6, 0.75), ended(1e6, 0.75)]
    assert is_hopeless(past, options, 1e6, [(3, 0.7499)])
    assert not is_hopeless(past, options, 1e6, [(3, 0.75)])
    assert not is_hopeless(past, options, 1e5, [(3, 0.7499)])  # a tenth of the FLOPs is worth more
    assert not is_hopeless(past[:1], options, 1e6, [(3, 0.5)])


def test_search_trains_a_real_model_as_one_training_would(tmp_path, monkeypatch):
    """The hand-made model, in two stages; the next point is counted, and is over the budget."""
    monkeypatch.setattr(sketch_module, "MOST_REFUSED", 1)
    with sketch_module.keep_programs_in(tmp_path / "compiled"):  # one for the search and what it is held against
        monkeypatch.setattr(sketch_module, "keep_programs_in", lambda folder: contextlib.nullcontext())
        space = {"model": {"options": {"deep_hidden": {"0": {"low": 32, "high": 64}}}}}
        hand_made = make_config(space=space)
        whole = train_run(hand_made.build_run(hand_made.hand_made), str(tmp_path / "whole"), say=str)
        flops = whole["train_flops_per_example"]
        timing = {"budget_milliseconds": 1e6, "latency_rows": 64, "latency_repeats": 3}
        config = make_config(trials=2, rungs=(0.5,), space=space, budget_flops=flops, **timing)
        best = Sketch(config, tmp_path / "search", say=lambda text: None).run()
    first, second = json.loads((tmp_path / "search" / "sketch.json").read_text())["trials"]
    assert best.number == 0
    assert (first["state"], first["flops"], first["within_budget"]) == ("complete", flops, True)
    assert first["auc"] == whole["validation"]["auc"]
    assert first["test"]["auc"] == whole["test"]["auc"]
    assert first["evaluations"] == [list(point) for point in read_validation(tmp_path / "whole")]
    assert 0 < first["milliseconds"] < 1e6
    added = second["values"][WIDTH] - 32  # units of the first hidden layer, between 4 x 4 inputs and 8 units
    assert second["state"] == "refused"
    assert second["flops"] == flops + 6 * (16 + 8) * added
    log = (tmp_path / "search" / "trials" / "0000" / "log.txt").read_text()
    assert "going on from step 6 of 12" in log
