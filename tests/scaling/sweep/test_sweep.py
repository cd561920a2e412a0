import contextlib
import dataclasses
import json
import os
import shutil
import signal
import threading

import pytest
from ml_collections import ConfigDict

from tests.runs.test_early_stop import write_rows
from wukong_jax.data.planted.clicks import write_planted_clicks
from wukong_jax.data.planted.clicks_config import PlantedClicksConfig
from wukong_jax.errors import NotFiniteLossError, UserError
from wukong_jax.files.file_lock import hold_lock
from wukong_jax.runs.console import TrainingConsole
from wukong_jax.scaling.ladders import planted_ladders as ladders
from wukong_jax.scaling.ladders.ladder import Ladder, Size
from wukong_jax.scaling.report.sweep_report import keep_results, read_points, read_search, report_sweep
from wukong_jax.scaling.sweep import sweep as sweep_module
from wukong_jax.scaling.sweep.config import StructureConfig, build_sweep_config, start_sweep_config
from wukong_jax.scaling.sweep.sweep import Sweep
from wukong_jax.scaling.sweep.units import plan_search

TINY = {
    "DLRM": Ladder(
        "wukong_jax.models.dlrm:build",
        (Size("s", {"top_hidden": (4,)}), Size("l", {"top_hidden": (8,)})),
        {"none": {}, "pairs": {"pair_norm": True}},
        width=4,
    ),
    "logistic regression": Ladder(
        "wukong_jax.models.logistic_regression:build", (Size("only", {}),), {"none": {}}, width=1
    ),
}


@pytest.fixture(autouse=True, scope="module")
def tiny_ladders_compiled_once(tmp_path_factory):
    """Sets tiny models, and one folder of compiled programs for all sweeps instead of one per sweep."""
    kept = sweep_module.keep_programs_in
    with pytest.MonkeyPatch.context() as patch, kept(tmp_path_factory.mktemp("compiled")):
        patch.setattr(ladders, "LADDERS", TINY)
        patch.setattr(sweep_module, "keep_programs_in", lambda folder: contextlib.nullcontext())
        yield


def make_config(seeds=(0, 1), models=tuple(TINY), search_steps=0, **run):
    config = start_sweep_config()
    config.name, config.data_name, config.generated = "a tiny sweep", "factorized", True
    config.models = {model: () for model in models}
    config.seeds = seeds
    config.search.rates, config.search.initial_scales, config.search.steps = (1.0,), (0.1,), search_steps
    config.run.data.factory = "planted_clicks"
    config.run.data.options = ConfigDict({"fields": 4, "values_per_field": 5, "train_rows": 1500})
    config.run.data.options.update({"validation_rows": 300, "test_rows": 300})
    config.run.embeddings.optimizer.kind = "lazy_adam"
    config.run.embeddings.optimizer.learning_rate = 1e-2
    config.run.optimizer.learning_rate = 1e-2
    config.run.training.batch_size = 128
    config.run.training.epochs = 1
    config.run.training.evaluate_every_steps = 5
    config.run.training.checkpoint_every_steps = 100
    for key, value in run.items():
        config.run[key] = value
    return build_sweep_config(config)


def without_speed(rows):
    return [{key: value for key, value in row.items() if key != "examples_per_second"} for row in rows]


@pytest.fixture(scope="module")
def whole(tiny_ladders_compiled_once, tmp_path_factory):
    """Returns a sweep that was never interrupted."""
    sweep = Sweep(make_config(), tmp_path_factory.mktemp("whole"), say=lambda text: None)
    assert sweep.run() == 0
    return sweep, read_points(sweep), read_search(sweep)


def test_points_are_of_every_size_and_place_in_the_pass(whole):
    _, rows, _ = whole
    final = {(row["model"], row["size"]): row for row in rows if row["final"]}
    assert set(final) == {("DLRM", "s"), ("DLRM", "l"), ("logistic regression", "only")}
    for row in final.values():
        assert (row["split"], row["examples_seen"], row["seeds"], row["missing_seeds"]) == ("test", 1500, [0, 1], 0)
        assert row["excess_log_loss"] == pytest.approx(row["log_loss"] - row["bayes_log_loss"])
        assert row["log_loss"] == pytest.approx(sum(row["log_loss_values"]) / 2)
        assert row["log_loss_std"] == pytest.approx(abs(row["log_loss_values"][0] - row["log_loss_values"][1]) / 2**0.5)
    # 6 pairs to 4 hidden values to a logit, forward and two gradients; the dots have none that reads weights
    assert final["DLRM", "s"]["train_flops_per_example"] == 6 * (6 * 4 + 4 + 4 * 4 * 4)
    along = [row for row in rows if row["model"] == "DLRM" and row["size"] == "l" and not row["final"]]
    assert [row["examples_seen"] for row in along] == [640, 1280, 1500]
    assert {row["split"] for row in along} == {"validation"}


def test_search_is_told_with_what_it_chose(whole):
    _, rows, trials = whole
    tried = [trial for trial in trials if trial["model"] == "DLRM"]
    assert [(trial["stage"], trial["norm"], trial["rate"]) for trial in tried[:2]] == [
        ("norm and scale", "none", 1.0),
        ("norm and scale", "pairs", 1.0),
    ]
    of_smallest = [trial for trial in tried if trial["size"] == "s"]
    best = min(of_smallest, key=lambda trial: trial["validation_log_loss"])
    assert [trial["chosen"] for trial in of_smallest] == [trial is best for trial in of_smallest]
    assert [trial["norm"] for trial in tried if trial["size"] == "l"] == [best["norm"]]  # carried; its rate is its own
    row = next(row for row in rows if row["model"] == "DLRM")
    assert (row["norm"], row["learning_rate"]) == (best["norm"], 1e-2 * best["rate"])


def of_one_seed(whole):
    """Returns a sweep of the first seed, on the folder of the whole sweep."""
    folder = whole[0].folder
    before = (folder / "sweep.json").read_text()
    sweep = Sweep(make_config(seeds=(0,)), folder)
    (folder / "sweep.json").write_text(before)
    return sweep


def test_killed_and_started_again_gives_the_same_points(whole, tmp_path, monkeypatch):
    config, advance, units = make_config(seeds=(0,)), TrainingConsole.after_step, []

    def kill_in_the_second_unit(console, loop, batch, metrics):
        advance(console, loop, batch, metrics)
        units.extend([None] * (loop.step == 1))
        if len(units) == 2 and loop.step == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(TrainingConsole, "after_step", kill_in_the_second_unit)
    with pytest.raises(SystemExit) as stopped:
        Sweep(config, tmp_path, say=lambda text: None).run()
    assert stopped.value.code == 143
    told = []
    again = Sweep(config, tmp_path, say=told.append)
    assert again.run() == 0
    assert "going on from step 7" in "".join(path.read_text() for path in tmp_path.glob("units/**/log.txt"))
    assert without_speed(read_points(again)) == without_speed(read_points(of_one_seed(whole)))
    done = len(told)
    assert again.run() == 0
    assert len(told) == done  # nothing is trained twice


def test_shards_together_are_the_whole(whole, tmp_path):
    config = make_config(seeds=(0,))
    parts = [Sweep(config, tmp_path, say=lambda text: None) for _ in range(2)]
    assert parts[0].run(0, 2) == 1  # the other model's search is the other shard's
    assert parts[1].run(1, 2) == 0
    assert parts[0].run(0, 2) == 0
    assert without_speed(read_points(parts[0])) == without_speed(read_points(of_one_seed(whole)))


def test_one_unit_fails_alone_and_is_tried_again(whole, tmp_path, monkeypatch):
    train, broken = sweep_module.train_run, {"s": NotFiniteLossError("loss at step 3"), "l": MemoryError("no room")}

    def break_dlrm(config, *rest, **options):
        if config.name.startswith("DLRM") and config.seed == 1:
            raise broken[config.name[-1]]
        return train(config, *rest, **options)

    monkeypatch.setattr(sweep_module, "train_run", break_dlrm)
    sweep = Sweep(make_config(models=("DLRM",)), tmp_path, say=lambda text: None)
    assert sweep.run() == 0
    assert [(unit.size, unit.seed) for unit in sweep.failed] == [("l", 1)]
    final = {(row["model"], row["size"]): row for row in read_points(sweep) if row["final"]}
    assert (final["DLRM", "s"]["exploded"], final["DLRM", "s"]["seeds"], final["DLRM", "s"]["errors"]) == (1, [0], [])
    assert (final["DLRM", "l"]["exploded"], final["DLRM", "l"]["seeds"]) == (0, [0])
    assert final["DLRM", "l"]["errors"] == ["MemoryError: no room"]
    exploded = json.loads(next(tmp_path.glob("units/DLRM/s/*/seed_1/unit.json")).read_text())["cost"]
    assert exploded["train_flops_per_example"] == 6 * (6 * 4 + 4 + 4 * 4 * 4)
    assert exploded["dense_parameters"] == final["DLRM", "s"]["parameters"]
    monkeypatch.setattr(sweep_module, "train_run", train)
    sweep.run()
    assert not sweep.failed
    after = {(row["model"], row["size"]): row for row in read_points(sweep) if row["final"]}
    assert after["DLRM", "s"]["exploded"] == 1  # an explosion is a result; a failure is not
    whole_final = {(row["model"], row["size"]): row for row in whole[1] if row["final"]}
    assert after["DLRM", "l"]["log_loss_values"] == whole_final["DLRM", "l"]["log_loss_values"]


def test_other_mathematics_in_the_same_folder_are_refused(whole):
    sweep, _, _ = whole
    changed = make_config(optimizer=make_config().run["optimizer"] | {"learning_rate": 5e-3})
    with pytest.raises(UserError, match=r"config.run.optimizer.learning_rate = 0.005: the sweep .* with 0.01;"):
        Sweep(changed, sweep.folder)
    Sweep(make_config(seeds=(0, 1, 2)), sweep.folder)  # more seeds are welcome
    assert json.loads((sweep.folder / "sweep.json").read_text())["seeds"] == [0, 1, 2]


def test_rows_that_lie_prepared_are_trained_on_where_they_are(whole, tmp_path):
    sweep, _, _ = whole
    prepared = {"format": "blocks", "path": str(sweep.folder / "data")}
    models = ("logistic regression",)
    other = Sweep(make_config(seeds=(0,), models=models, data=prepared), tmp_path, say=lambda text: None)
    assert (other.run(), other.failed) == (0, set())
    assert not (tmp_path / "data").exists()
    (point,) = (row for row in read_points(other) if row["final"])
    same = next(row for row in read_points(sweep) if row["final"] and row["model"] == models[0])
    assert point["log_loss_values"] == same["log_loss_values"][:1]


def test_rows_that_changed_since_units_were_trained_on_them_are_refused(whole, tmp_path):
    sweep, _, _ = whole
    shutil.copytree(sweep.folder / "data", tmp_path / "rows")
    config = make_config(seeds=(0,), models=("logistic regression",), data=read_blocks(tmp_path / "rows"))
    first = Sweep(config, tmp_path / "sweep", say=lambda text: None)
    assert (first.run(), first.failed) == (0, set())
    record = tmp_path / "sweep" / "sweep.json"
    before = record.read_text()
    shutil.rmtree(tmp_path / "rows")
    other = {
        "fields": 4,
        "values_per_field": 5,
        "train_rows": 1500,
        "validation_rows": 300,
        "test_rows": 300,
        "seed": 1,
    }
    write_planted_clicks(PlantedClicksConfig(**other), tmp_path / "rows")
    for content in (before, without_fingerprint(before)):  # an earlier version's sweep has none
        record.write_text(content)
        with pytest.raises(UserError, match=r"rows: holds different rows than those this run was trained on; give the"):
            Sweep(config, tmp_path / "sweep", say=lambda text: None)
        assert record.read_text() == content
    shutil.rmtree(tmp_path / "rows")
    shutil.copytree(sweep.folder / "data", tmp_path / "rows")
    assert Sweep(config, tmp_path / "sweep", say=lambda text: None).count_missing() == 0
    assert record.read_text() == before


def read_blocks(folder):
    return {"factory": "blocks", "path": str(folder)}


def without_fingerprint(text):
    return json.dumps({key: value for key, value in json.loads(text).items() if key != "data_fingerprint"})


def test_a_refused_first_start_leaves_no_sweep_in_the_way(tmp_path):
    config = make_config(seeds=(0,), models=("logistic regression",), data=read_blocks(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="nowhere holds no row blocks"):
        Sweep(config, tmp_path / "sweep", say=lambda text: None)
    config = make_config(seeds=(0,), models=("logistic regression",))
    assert Sweep(config, tmp_path / "sweep", say=lambda text: None).data.splits["train"].rows == 1500


def test_rows_without_validation_are_refused_before_anything_is_trained(tmp_path):
    planted = {"fields": 4, "values_per_field": 5, "train_rows": 100, "validation_rows": 0, "test_rows": 100}
    with pytest.raises(UserError, match="has no validation rows, which the search judges by"):
        Sweep(make_config(data={"factory": "planted_clicks", "options": planted}), tmp_path, say=lambda text: None)


def test_options_that_a_model_refuses_are_refused_before_anything_is_trained(whole):
    sweep, _, _ = whole
    wrong = dataclasses.replace(sweep.config, models={"DLRM": ()}, options={"bottom_hiden": (32,)})
    with pytest.raises(UserError, match=r"config.models, DLRM s, norm none: .*bottom_hiden"):
        Sweep(wrong, sweep.folder.parent / "refused", say=lambda text: None)
    with pytest.raises(
        UserError, match=r"options.pair_norm: DLRM's norm 'pairs' sets it, and is searched; leave it out"
    ):
        dataclasses.replace(sweep.config, models={"DLRM": ()}, options={"pair_norm": True})


def test_a_size_that_changed_since_it_was_trained_is_refused(whole, monkeypatch):
    sweep, _, _ = whole
    wider = dataclasses.replace(TINY["DLRM"], sizes=(Size("s", {"top_hidden": (4096,)}), TINY["DLRM"].sizes[1]))
    monkeypatch.setattr(ladders, "LADDERS", TINY | {"DLRM": wider})
    again = Sweep(make_config(), sweep.folder, say=lambda text: None)
    with pytest.raises(UserError, match=r"DLRM s: model.options = .*4096.* were trained with .*\[4\].*another name"):
        again.run()


def test_a_unit_that_another_process_trains_has_not_failed(whole, tmp_path):
    sweep = Sweep(make_config(seeds=(0,), models=("logistic regression",)), tmp_path, say=lambda text: None)
    unit = next(iter(plan_search(sweep.config, "logistic regression", sweep.loss)[0]))
    folder = tmp_path / unit.folder
    folder.mkdir(parents=True)
    with hold_lock(folder / ".lock"), pytest.raises(UserError, match="must name the same number of shards"):
        sweep.run()
    assert not (folder / "unit.json").exists()


def test_an_empty_sweep_does_not_replace_what_was_kept(tmp_path):
    sweep = Sweep(make_config(seeds=(0,), models=("logistic regression",)), tmp_path / "sweep", say=lambda text: None)
    report_sweep(sweep)
    with pytest.raises(UserError, match=r"no search of the sweep in .* has ended; run it first"):
        keep_results(sweep, tmp_path / "kept", "a command")


def test_a_search_over_a_part_of_the_rows(whole, tmp_path):
    sweep = Sweep(make_config(seeds=(0,), search_steps=4), tmp_path, say=lambda text: None)
    assert (sweep.run(), sweep.failed) == (0, set())
    config = json.loads(next(tmp_path.glob("units/DLRM/s/*/seed_0_of_4_steps/config.json")).read_text())
    assert (config["training"]["steps"], config["training"]["epochs"]) == (4, None)
    trial = next(row for row in read_search(sweep) if row["model"] == "DLRM")
    curve = next(row for row in read_points(sweep) if row["final"] and row["model"] == "DLRM")
    assert trial["validation_log_loss"] != curve["log_loss"]
    assert curve["examples_seen"] == 1500
    with pytest.raises(UserError, match=r"config.search.steps = 12: a whole run has 12; give fewer"):
        Sweep(make_config(seeds=(0,), search_steps=12), tmp_path, say=lambda text: None)


def test_a_search_over_structures_has_a_seed_of_its_own_and_tells_what_it_chose(whole, tmp_path, monkeypatch):
    structures = {"mlp norm": {"none": {}, "batch": {"mlp_norm": "batch"}}}
    searched = {name: dataclasses.replace(ladder, structures=structures) for name, ladder in TINY.items()}
    searched["logistic regression"] = TINY["logistic regression"]
    monkeypatch.setattr(ladders, "SEARCHED", searched)
    config = make_config(seeds=(0,), models=("DLRM",))
    search = dataclasses.replace(config.search, structure=StructureConfig(trials=3, at_once=2, seed=9))
    config = dataclasses.replace(config, ladders="searched", search=search)
    sweep = Sweep(config, tmp_path, say=lambda text: None)
    monkeypatch.setattr("wukong_jax.scaling.sweep.units._DOUBLINGS", 0)
    for shard in (0, 1, 0, 1, 0, 1):  # they take turns until both have nothing left
        Sweep(config, tmp_path, say=lambda text: None).run(shard, 2)
    assert sweep.searching() == []
    trials = read_search(sweep)
    tried = [trial for trial in trials if trial["stage"] == "structure"]
    assert len({(trial["norm"], trial["structure"]["mlp norm"]) for trial in tried}) == len(tried) == 3
    assert (tried[0]["norm"], tried[0]["structure"]) == ("none", {"mlp norm": "none"})
    best = min(tried, key=lambda trial: trial["validation_log_loss"])
    final = [row for row in read_points(sweep) if row["final"]]
    assert [row["seeds"] for row in final] == [[0], [0]]
    assert {(row["norm"], row["structure"]["mlp norm"]) for row in final} == {
        (best["norm"], best["structure"]["mlp norm"])
    }
    page = report_sweep(sweep).read_text()
    assert "seed 9, which no mean contains" in page


def test_a_unit_says_what_made_it_and_leaves_no_checkpoint(whole, tmp_path):
    sweep, _, _ = whole
    (made,) = sweep.list_made()
    assert set(made) == {"commit", "machine", "date"}
    assert not list(sweep.folder.glob("units/**/checkpoints"))
    config = dataclasses.replace(make_config(seeds=(0,), models=("logistic regression",)), keep_checkpoints=True)
    Sweep(config, tmp_path, say=lambda text: None).run()
    assert list(tmp_path.glob("units/**/checkpoints/*"))


def test_a_run_that_ends_far_above_a_constant_guess_has_exploded(tmp_path, monkeypatch):
    evaluations = sweep_module._read_evaluations
    monkeypatch.setattr(
        sweep_module,
        "_read_evaluations",
        lambda folder: [*evaluations(folder)[:-1], evaluations(folder)[-1] | {"normalized_entropy": 1.6}],
    )
    sweep = Sweep(make_config(seeds=(0,), models=("logistic regression",)), tmp_path, say=lambda text: None)
    sweep.run()
    (row,) = (row for row in read_points(sweep) if row["final"])
    assert (row["exploded"], row["log_loss"]) == (1, None)


def test_validation_labels_of_one_class_explode_no_run_and_have_no_auc(tmp_path):
    data = write_rows(tmp_path / "rows", lambda split, labels, domain: labels * (split != "validation"))
    config = make_config(models=("logistic regression",), data=data)
    sweep = Sweep(config, tmp_path / "sweep", say=lambda text: None)
    assert sweep.run() == 0
    along, final = ([row for row in read_points(sweep) if row["final"] is kind] for kind in (False, True))
    assert final[0]["exploded"] == 0
    assert final[0]["auc"] > 0
    assert {row["auc"] for row in along} == {None}
    assert all(row["log_loss"] > 0 for row in along)
    assert "NaN" not in "".join(path.read_text() for path in sweep.folder.glob("units/**/unit.json"))


def test_validation_rows_without_labels_are_refused_before_anything_is_trained(tmp_path):
    data = write_rows(tmp_path / "rows", lambda split, labels, domain: labels, masked=("validation",))
    with pytest.raises(UserError, match="no observed label, and the search judges by their log loss"):
        Sweep(make_config(models=("logistic regression",), data=data), tmp_path / "sweep")


def test_a_sweep_of_an_earlier_version_goes_on_without_start_logits(tmp_path):
    config = make_config(models=("logistic regression",))
    assert config.run["training"]["start_at_rate"]
    Sweep(config, tmp_path, say=lambda text: None)
    stored = json.loads((tmp_path / "sweep.json").read_text())
    del stored["run"]["training"]["start_at_rate"]
    (tmp_path / "sweep.json").write_text(json.dumps(stored))
    for _ in range(2):  # twice, since the first time writes the file anew
        told = []
        again = Sweep(config, tmp_path, say=told.append)
        assert not again.config.run["training"]["start_at_rate"]
        assert "config.run.training.start_at_rate stays False" in told[0]
        assert "start_at_rate" not in json.loads((tmp_path / "sweep.json").read_text())["run"]["training"]
    fresh = make_config(models=("logistic regression",))
    Sweep(fresh, tmp_path / "new", say=lambda text: None)
    fresh.run["training"]["start_at_rate"] = False
    with pytest.raises(UserError, match=r"start_at_rate = False: the sweep in .* was started with True"):
        Sweep(fresh, tmp_path / "new")


def test_two_processes_on_one_shard_are_refused(whole, monkeypatch):
    sweep, _, _ = whole
    entered, leave = threading.Event(), threading.Event()

    def hold(*_):
        entered.set()
        assert leave.wait(60)
        return 0

    monkeypatch.setattr(Sweep, "_run_shard", hold)
    first = threading.Thread(target=sweep.run)
    first.start()
    assert entered.wait(60)
    try:
        with pytest.raises(UserError, match="another process is at work"):
            sweep.run()
    finally:
        leave.set()
        first.join()
