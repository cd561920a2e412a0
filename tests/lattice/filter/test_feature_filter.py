import dataclasses
import json

import numpy as np
import pytest
from scipy.special import expit

from lattice.filter.feature_filter import (
    FilterSettings,
    check_settings,
    choose_features,
    clear_noise,
    describe_selection,
    find_new_owners,
    reduce_schema,
    write_filter,
)
from lattice.filter.importance_file import load_importance, save_importance
from lattice.filter.permutation_importance import (
    RunImportance,
    ShuffleSettings,
    TaskImportance,
    check_features,
    list_features,
    measure_importance,
)
from lattice.filter.pictures import draw_fronts
from lattice.filter.reduced_rows import reduce_rows, write_reduced_rows
from tests.end_to_end.run_script import run_script
from tests.lattice.logistic_run import SCHEMA, compute_logits, draw_columns, open_logistic_run, without, write_folder
from wukong_jax.config import DataConfig
from wukong_jax.data.blocks.row_blocks import open_row_blocks
from wukong_jax.data.raw.prepare import prepare_data
from wukong_jax.data.raw.vocabulary import Vocabulary, load_vocabulary, save_vocabulary
from wukong_jax.errors import UserError
from wukong_jax.runs.folder import RunFolder
from wukong_jax.runs.rows import open_run_data
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source, Split, load_schema
from wukong_jax.training.run import build_run

# a and b lead one task each, c lies between them, d and e under c alone, f is the noise of all.
TABLE = np.array([[9.0, 0.0], [0.0, 9.0], [5.0, 5.0], [4.0, 1.0], [1.0, 4.0], [-0.1, -0.2]])
NAMES = ("a", "b", "c", "d", "e", "f")


def make_tasks(table, tasks=("click", "buy")):
    table = np.asarray(table, np.float64)
    counts = np.arange(table.shape[1]) + 10
    return TaskImportance(tuple(tasks), table, np.abs(table) / 10, 0.1 * counts, counts)


def make_measured(table=TABLE, features=NAMES, portfolios=None):
    return RunImportance(tuple(features), make_tasks(table), portfolios, ShuffleSettings(), 100, 7)


def test_each_feature_says_its_layer_and_why(tmp_path):
    settings = FilterSettings(budget=4, seed=3)
    selection = choose_features(make_measured(), settings)
    schema = dataclasses.replace(SCHEMA, dense=tuple(DenseColumn(name) for name in NAMES), categorical=(), sequences=())
    described = describe_selection(selection, settings, schema)
    drawn = next(name for name in "de" if name in described["kept"])
    other = "e" if drawn == "d" else "d"
    assert described["kept"] == sorted(["a", "b", "c", drawn])
    assert described["dropped"] == [other, "f"]
    assert described["layer_sizes"] == [3, 2, 1]
    by_name = {feature["name"]: feature for feature in described["features"]}
    assert [feature["name"] for feature in described["features"]] == ["a", "b", "c", drawn, other, "f"]
    assert by_name["a"]["why"] == "layer 1, no feature dominates it; the whole layer fits the budget"
    assert by_name[drawn]["dominated_by"] in ("a", "b", "c")
    room = "the budget has room for 1 of the layer's 2, drawn at random"
    assert by_name[drawn]["why"].endswith(room)
    assert by_name[other]["why"].endswith(room)
    assert by_name["f"]["layer"] == 3
    assert by_name["f"]["why"].endswith("the budget is full after layer 2")


def test_a_last_layer_that_fits_is_not_called_drawn():
    selection = choose_features(make_measured(), FilterSettings(budget=5))
    assert not any("drawn" in reason for reason in selection.reasons)
    assert selection.dropped_names == ("f",)


def test_a_weighted_sum_follows_its_weights():
    plain = choose_features(make_measured(), FilterSettings(budget=3, method="weighted_sum"))
    assert plain.kept_names == ("a", "b", "c")
    heavy = choose_features(
        make_measured(), FilterSettings(budget=3, method="weighted_sum", weights={"buy": 0.0, "click": 2.0})
    )
    assert heavy.kept_names == ("a", "c", "d")
    assert heavy.reasons[0] == "weighted sum 18, kept: the least of the kept is 8"
    assert heavy.layers.layer.tolist() == [0, 0, 0, 1, 1, 2]


def test_portfolios_are_compared_where_asked():
    portfolios = make_tasks(TABLE[:, [0, 0, 0]], ("web/click", "web/buy", "app/click"))
    measured = make_measured(portfolios=portfolios)
    selection = choose_features(measured, FilterSettings(budget=2, tasks="portfolios"))
    assert selection.tasks.tasks == ("web/click", "web/buy", "app/click")
    assert selection.kept_names == ("a", "c")
    with pytest.raises(UserError, match="tasks = 'portfolios': the data has one domain"):
        choose_features(make_measured(), FilterSettings(budget=2, tasks="portfolios"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"budget": 7}, "budget = 7: must be from 1 to 6, the number of features"),
        ({"method": "weighted_sum", "weights": {"bye": 1.0}}, "weights of 'bye': no such task; there are click, buy"),
        ({"method": "weighted_sum", "weights": {"buy": -1.0}}, "weights.buy = -1.0"),
        ({"method": "weighted_sum", "weights": {"buy": float("nan")}}, "weights.buy = nan"),
        ({"method": "weighted_sum", "weights": {"buy": 0.0, "click": 0.0}}, "weights: all are 0"),
        ({"weights": {"buy": 1.0}}, "only method 'weighted_sum' has them"),
        ({"seed": -1}, "seed = -1"),
        ({"standard_errors": -1.0}, "standard_errors = -1.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        choose_features(make_measured(), FilterSettings(**{"budget": 3, **values}))


def test_what_the_schema_rules_out_is_refused_before_anything_is_measured():
    check_settings(FilterSettings(6, tasks="portfolios", method="weighted_sum", weights={"app/buy": 2.0}), SCHEMA)
    with pytest.raises(UserError, match="budget = 7"):
        check_settings(FilterSettings(7), SCHEMA)
    with pytest.raises(UserError, match=r"weights of 'app/bye': .* web/click, web/buy, app/click, app/buy"):
        check_settings(FilterSettings(2, tasks="portfolios", method="weighted_sum", weights={"app/bye": 2.0}), SCHEMA)
    alone = dataclasses.replace(SCHEMA, domain=None, domain_values=())
    with pytest.raises(UserError, match="the data has one domain"):
        check_settings(FilterSettings(2, tasks="portfolios"), alone)


def test_an_importance_that_is_no_number_is_refused_by_name():
    table = TABLE.copy()
    table[2, 1] = np.nan
    with pytest.raises(UserError, match="feature 'c' for 'buy' = nan"):
        choose_features(make_measured(table), FilterSettings(budget=3))


def test_the_smaller_schema_keeps_everything_else():
    reduced = reduce_schema(SCHEMA, ("age", "item", "history"))
    assert reduced == without(SCHEMA, "price", "shelf", "tags")
    with pytest.raises(UserError, match="feature 'colour': not a column of schema 'shop'"):
        reduce_schema(SCHEMA, ("colour",))


def test_a_vocabulary_whose_owner_goes_passes_to_the_first_that_shares_it():
    shared = dataclasses.replace(
        SCHEMA,
        categorical=(
            CategoricalColumn("item", encoding="hash", rows=20, salt=5),
            CategoricalColumn("rival", vocabulary_of="item"),
            CategoricalColumn("shelf", encoding="identity", rows=6),
        ),
    )
    kept = ("rival", "shelf", "history")
    reduced = reduce_schema(shared, kept)
    assert find_new_owners(shared, kept) == {"item": "rival"}
    assert reduced.categorical[0] == CategoricalColumn("rival", encoding="hash", rows=20, salt=5)
    assert reduced.sequences[0].vocabulary_of == "rival"
    assert reduced.sequences[0].max_length == 4
    assert reduced.vocabulary_rows() == {"rival": 20, "shelf": 6}


def test_raw_files_are_prepared_with_the_smaller_schema_of_a_prepared_set(tmp_path):
    rows = ["user,item,seen,price,click", *(f"u{i % 3},i{i % 4},i{i % 2}|i{i % 5},{i},{i % 2}" for i in range(40))]
    (tmp_path / "rows.csv").write_text("\n".join(rows) + "\n")
    schema = Schema(
        name="raw",
        source=Source(format="csv"),
        labels=(LabelColumn("click"),),
        split=Split(by="order"),
        dense=(DenseColumn("price", transform="standardise"),),
        categorical=(CategoricalColumn("user"), CategoricalColumn("item")),
        sequences=(CategoricalColumn("seen", separator="|", max_length=2, vocabulary_of="item"),),
    )
    prepare_data(schema, [tmp_path / "rows.csv"], tmp_path / "whole")
    resolved = load_schema(tmp_path / "whole" / "schema.json")
    measured = make_measured([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0], [1.0, 1.0]], ("price", "user", "item", "seen"))
    settings = FilterSettings(budget=2)
    write_filter(measured, choose_features(measured, settings), settings, resolved, tmp_path / "out", "title")
    prepare_data(load_schema(tmp_path / "out" / "schema.json"), [tmp_path / "rows.csv"], tmp_path / "reduced")
    again = load_schema(tmp_path / "reduced" / "schema.json")
    assert again.dense == resolved.dense
    assert again.vocabulary_rows() == {"seen": 6}
    whole = open_row_blocks(tmp_path / "whole", "train").read(0)
    reduced = open_row_blocks(tmp_path / "reduced", "train").read(0)
    for name in ("dense", "labels"):
        np.testing.assert_array_equal(reduced[name], whole[name])
    assert reduced["ids"].shape == (32, 2)


@pytest.fixture
def shop(tmp_path):
    """Creates a prepared folder whose items have a vocabulary on disk."""
    schema = dataclasses.replace(
        SCHEMA, categorical=(dataclasses.replace(SCHEMA.categorical[0], encoding="vocabulary"), *SCHEMA.categorical[1:])
    )
    rows = {split: draw_columns(count, count) for split, count in (("train", 600), ("validation", 300))}
    write_folder(tmp_path / "data", rows, schema)
    frame = Vocabulary(*(np.arange(1, 20).astype(kind) for kind in (str, np.int64)))
    save_vocabulary(frame, tmp_path / "data" / "vocabulary", "item")
    (tmp_path / "data" / "report.json").write_text(json.dumps({"bayes": {"test": 1}, "vocabulary_rows": {"item": 20}}))
    return tmp_path / "data", schema


def open_rows(folder):
    return open_run_data(DataConfig("blocks", path=str(folder)), folder, say=lambda text: None)


def test_row_blocks_lose_the_dropped_columns_only(shop, tmp_path):
    folder, schema = shop
    data = open_rows(folder)
    write_reduced_rows(data, reduce_schema(schema, ("age", "tags", "history")), tmp_path / "reduced")
    reduced = open_rows(tmp_path / "reduced")
    assert reduced.schema.vocabulary_rows() == {"tags": 8, "history": 20}
    assert set(reduced.splits) == {"train", "validation"}
    for split, rows in (("train", 600), ("validation", 300)):
        whole = draw_columns(rows, rows)
        found = [reduced.splits[split].read(i) for i in range(reduced.splits[split].num_blocks)]
        found = {name: np.concatenate([part[name] for part in found]) for name in whole}
        np.testing.assert_array_equal(found["dense"], whole["dense"][:, 1:])
        np.testing.assert_array_equal(found["ids"], whole["ids"][:, 2:])
        for name in set(whole) - {"dense", "ids"}:
            np.testing.assert_array_equal(found[name], whole[name])
    stored = load_vocabulary(tmp_path / "reduced" / "vocabulary", "history")
    assert stored.values.equals(load_vocabulary(folder / "vocabulary", "item").values)
    assert reduced.report["bayes"] == {"test": 1}
    assert reduced.report["vocabulary_rows"] == {"tags": 8, "history": 20}
    with pytest.raises(UserError, match="exists already"):
        write_reduced_rows(data, schema, tmp_path / "reduced")


def test_reduced_rows_may_have_no_numbers(shop):
    _, schema = shop
    columns = reduce_rows(draw_columns(5, 0), schema, reduce_schema(schema, ("item",)))
    assert columns["dense"].shape == (5, 0)
    assert columns["ids"].shape == (5, 1)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Returns importances of twelve columns and the names of the six useful ones, the last only for rare purchases."""
    random = np.random.default_rng(0)
    columns = tuple(CategoricalColumn(f"field_{i}", encoding="identity", rows=10) for i in range(12))
    schema = dataclasses.replace(SCHEMA, dense=(), categorical=columns, sequences=(), domain=None, domain_values=())
    useful = tuple(f"field_{i}" for i in sorted(random.permutation(12)[:6].tolist()))
    truth = {column.name: np.zeros((10, 2)) for column in columns}
    for name in useful:
        truth[name][:, int(name == useful[-1])] = random.normal(size=10)
    rows = draw_columns(8000, 0, schema)
    rows["label_mask"][:] = 1
    rows["domain"][:] = 0
    bias = np.array([0.0, -4.0])
    chance = expit(compute_logits(rows, schema, truth, np.zeros((0, 2)), bias))
    rows["labels"] = (random.random(chance.shape) < chance).astype(np.float32)
    # What a trained model would know: the truth, and noise on every table, more of it for clicks.
    learned = {name: table + random.normal(size=(10, 2)) * (0.2, 0.02) for name, table in truth.items()}
    folder = tmp_path_factory.mktemp("planted") / "data"
    write_folder(folder, {"train": rows}, schema)
    opened = open_logistic_run(folder, learned, np.zeros((0, 2)), bias, evaluation_batch_size=8192)
    return measure_importance(opened, ShuffleSettings(split="train", rows=8000, shuffles=2)), useful


def test_half_of_the_columns_planted_useless_are_gone_at_the_right_budget(planted):
    measured, useful = planted
    for seed in range(5):
        assert choose_features(measured, FilterSettings(budget=6, seed=seed)).kept_names == useful


def test_the_noise_of_useless_columns_decides_layers_where_it_is_not_cleared(planted):
    measured, useful = planted
    raw = choose_features(measured, FilterSettings(budget=6, standard_errors=0.0))
    assert raw.tasks is measured.objectives
    assert set(raw.kept_names) - set(useful)
    cleared = choose_features(measured, FilterSettings(budget=6))
    useless = [name not in useful for name in measured.features]
    assert (cleared.tasks.importance[useless] == 0).all()
    assert len(set(cleared.layers.layer[useless])) == 1
    assert cleared.important == 6


def test_layers_keep_the_only_column_of_a_rare_objective_and_a_weighted_sum_drops_it(planted):
    measured, useful = planted
    assert useful[-1] in choose_features(measured, FilterSettings(budget=2)).kept_names
    assert useful[-1] not in choose_features(measured, FilterSettings(budget=5, method="weighted_sum")).kept_names


def test_importances_are_cleared_by_their_own_standard_errors():
    tasks = dataclasses.replace(
        make_tasks([[0.31, 0.2], [-0.9, 0.0]]), standard_error=np.array([[0.1, 0.1], [0.1, 0.0]])
    )
    assert clear_noise(tasks, 3.0).importance.tolist() == [[0.31, 0.0], [0.0, 0.0]]
    assert clear_noise(tasks, 1.0).importance.tolist() == [[0.31, 0.2], [0.0, 0.0]]
    assert clear_noise(tasks, 0.0) is tasks


def test_files_are_written_and_importances_read_back_bit_for_bit(tmp_path):
    measured = make_measured(portfolios=make_tasks(np.random.default_rng(0).normal(size=(6, 3)), ("x", "y", "z")))
    measured.objectives.standard_error[1] = np.nan
    schema = dataclasses.replace(SCHEMA, dense=tuple(DenseColumn(name) for name in NAMES), categorical=(), sequences=())
    settings = FilterSettings(budget=4)
    selection = choose_features(measured, settings)
    output = tmp_path / "new" / "filter"
    write_filter(measured, selection, settings, schema, output, "A title")
    files = ["fronts.png", "importance.json", "schema.json", "selection.json"]
    assert sorted(path.name for path in output.iterdir()) == files
    assert (output / "fronts.png").read_bytes().startswith(b"\x89PNG")
    assert load_schema(output / "schema.json") == reduce_schema(schema, selection.kept_names)
    assert json.loads((output / "selection.json").read_text())["kept"] == list(selection.kept_names)
    again = load_importance(output / "importance.json")
    assert (again.features, again.settings, again.rows, again.step) == (NAMES, ShuffleSettings(), 100, 7)
    for mine, theirs in ((measured.objectives, again.objectives), (measured.portfolios, again.portfolios)):
        assert mine.tasks == theirs.tasks
        for name in ("importance", "standard_error", "log_loss", "rows"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--output = .*file/filter"):
        write_filter(measured, selection, settings, schema, tmp_path / "file" / "filter", "")


def test_importances_that_are_damaged_or_of_another_run_are_refused(tmp_path):
    path = tmp_path / "importance.json"
    with pytest.raises(UserError, match="No such file"):
        load_importance(path)
    path.write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        load_importance(path)
    save_importance(make_measured(), path)
    stored = json.loads(path.read_text())
    path.write_text(json.dumps(stored | {"objectives": stored["objectives"] | {"rows": [1]}}))
    with pytest.raises(UserError, match="do not fit 6 features and 2 tasks"):
        load_importance(path)
    with pytest.raises(UserError, match=r"its 6 features are not the run's 6 \(first difference: "):
        check_features(make_measured(), SCHEMA)


@pytest.mark.parametrize(("features", "tasks"), [(1, 1), (150, 1), (9, 2), (120, 4)])
def test_pictures_of_any_size_are_drawn(features, tasks):
    table = np.random.default_rng(0).normal(size=(features, tasks))
    names = [f"task {index}" for index in range(tasks)]
    kept = np.arange(features) % 2 == 0
    selection = choose_features(
        dataclasses.replace(
            make_measured(features=[f"f{i}" for i in range(features)]), objectives=make_tasks(table, names)
        ),
        FilterSettings(budget=int(kept.sum())),
    )
    picture = draw_fronts(selection.tasks, selection.features, selection.layers.layer, selection.kept, "title")
    assert picture.startswith(b"\x89PNG")


def test_pictures_over_what_is_no_task_are_refused():
    layer, kept = np.zeros(6, np.int64), np.ones(6, bool)
    for axes, message in ((("click", "bye"), "no task 'bye'"), (("buy", "buy"), "two different tasks")):
        with pytest.raises(UserError, match=message):
            draw_fronts(make_tasks(TABLE), NAMES, layer, kept, "", axes)


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--workdir={tmp}/none", "--output={tmp}/out", "--budget=2"), 1, "holds no run"),
        (("--workdir={tmp}", "--output={tmp}/out", "--budget=2", "--importance=x", "--rows=9"), 2, "--rows"),
        (
            ("--workdir={tmp}", "--output={tmp}/out", "--budget=2", "--weights=a"),
            2,
            "--weights = 'a': 'a' is not name=number",
        ),
        (("--help",), 0, ""),
    ],
)
def test_the_script_fails_in_one_line(flags, code, words, tmp_path):
    actual, out, err = run_script("filter_features.py", *(flag.format(tmp=tmp_path) for flag in flags))
    assert actual == code, err
    assert words in err
    assert "Traceback" not in err
    if code == 1:
        assert len(err.strip().splitlines()) == 1
    assert ("permutation" in out or "shuffled" in out) == (code == 0)


CONFIG = """
from wukong_jax.config import start_config

def get_config():
    config = start_config()
    config.name = "few"
    config.data.factory = "planted_clicks"
    config.data.options = dict(fields=4, dense_fields=2, train_rows=2000, validation_rows=1000, test_rows=100)
    config.embeddings.width = 1
    config.embeddings.optimizer.kind = "sgd"
    config.embeddings.optimizer.learning_rate = 0.1
    config.model.factory = "wukong_jax.models.logistic_regression:build"
    config.model.options = {}
    config.optimizer.learning_rate = 0.1
    config.training.batch_size = 512
    config.training.evaluation_batch_size = 512
    config.training.epochs = 1
    return config
"""


@pytest.mark.slow
def test_the_script_filters_a_finished_run(tmp_path):
    (tmp_path / "few.py").write_text(CONFIG)
    workdir, out_dir = f"--workdir={tmp_path / 'run'}", tmp_path / "filter"
    code, _, err = run_script("train.py", f"--config={tmp_path / 'few.py'}", workdir)
    assert code == 0, err
    measuring = ("--rows=900", "--shuffles=2", "--write_rows")
    code, out, err = run_script("filter_features.py", workdir, f"--output={out_dir}", "--budget=3", *measuring)
    assert code == 0, err
    assert "kept 3" in out
    assert "900 of 900 rows" in err
    described = json.loads((out_dir / "selection.json").read_text())
    data = open_rows(out_dir / "data")
    assert {*list_features(data.schema)} == {*described["kept"]}
    config = dataclasses.replace(RunFolder(tmp_path / "run").load_config(), data=DataConfig("blocks", path="data"))
    assert build_run(config, data.schema).layout.slots + len(data.schema.dense) == 3

    choosing = (f"--output={tmp_path / 'again'}", "--budget=3", f"--importance={out_dir / 'importance.json'}")
    code, _, err = run_script("filter_features.py", workdir, *choosing)
    assert code == 0, err
    assert json.loads((tmp_path / "again" / "selection.json").read_text()) == described
