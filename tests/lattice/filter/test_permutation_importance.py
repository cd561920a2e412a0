import numpy as np
import pytest

from lattice.filter import permutation_importance
from lattice.filter.permutation_importance import ShuffleSettings, draw_rows, list_features, measure_importance
from tests.lattice.logistic_run import FEATURES, SCHEMA, compute_logits, draw_columns, open_logistic_run, write_folder
from wukong_jax.data.blocks.random_streams import open_stream
from wukong_jax.errors import UserError

ROWS = 700
SLOTS = {"item": [0], "shelf": [1], "tags": [2, 3, 4], "history": [5, 6, 7, 8]}
RANDOM = np.random.default_rng(5)
TABLES = {
    "item": RANDOM.normal(size=(20, 2)),
    "shelf": np.zeros((6, 2)),  # which the model does not read
    "tags": RANDOM.normal(size=(8, 2)) * (1.0, 0.0),  # for click only
}
DENSE, BIAS = np.array([[0.7, -0.3], [1e-4, 1e-4]]), np.array([-0.5, -2.0])


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop") / "data"
    write_folder(folder, {"train": draw_columns(300, 1), "validation": draw_columns(ROWS, 2)})
    return open_logistic_run(folder, TABLES, DENSE, BIAS)


def measure_slowly(columns, shuffles, seed, tasks):
    """Computes permutation importance by definition in float64: (importance [F, tasks], standard error, loss [tasks]).

    The standard error is that of a weighted mean of independent rows.

    Args:
      tasks: (objective, domain or None for all) of each.
    """

    def losses(rows):
        logits = compute_logits(rows, SCHEMA, TABLES, DENSE, BIAS)
        return np.logaddexp(0, logits) - columns["labels"] * logits

    def move(name, order):
        rows = {key: array.copy() for key, array in columns.items()}
        if name in SLOTS:
            rows["ids"][:, SLOTS[name]] = columns["ids"][order][:, SLOTS[name]]
        else:
            rows["dense"][:, FEATURES.index(name)] = columns["dense"][order, FEATURES.index(name)]
        return rows

    base = losses(columns)
    orders = [
        open_stream(seed, permutation_importance._SHUFFLE, shuffle).permutation(len(base))
        for shuffle in range(shuffles)
    ]
    importance, error, loss = np.zeros((6, len(tasks))), np.zeros((6, len(tasks))), np.zeros(len(tasks))
    for feature, name in enumerate(FEATURES):
        rise = np.mean([losses(move(name, order)) - base for order in orders], axis=0)
        for task, (objective, domain) in enumerate(tasks):
            share = columns["weight"].astype(np.float64) * columns["label_mask"][:, objective]
            share = share * (1.0 if domain is None else columns["domain"] == domain)
            share /= share.sum()
            loss[task] = share @ base[:, objective]
            mean = share @ rise[:, objective]
            importance[feature, task] = mean
            error[feature, task] = np.sqrt(share**2 @ (rise[:, objective] - mean) ** 2)
    return importance, error, loss


@pytest.fixture(scope="module")
def measured(opened):
    return measure_importance(opened, ShuffleSettings(rows=10_000, shuffles=2, seed=4))


def test_importance_is_the_rise_of_the_loss_of_the_observed_rows(opened, measured):
    rows = draw_rows(opened.data.splits["validation"], SCHEMA, ShuffleSettings(rows=10_000, seed=4))
    assert measured.rows == len(rows["weight"]) == (draw_columns(ROWS, 2)["weight"] > 0).sum()
    assert measured.features == list_features(SCHEMA) == FEATURES
    importance, error, loss = measure_slowly(rows, 2, 4, [(0, None), (1, None)])
    objectives = measured.objectives
    assert objectives.tasks == ("click", "buy")
    np.testing.assert_allclose(objectives.importance, importance, rtol=1e-4, atol=2e-7)  # float32 losses of about 1
    np.testing.assert_allclose(objectives.standard_error, error, rtol=1e-4, atol=2e-7)
    np.testing.assert_allclose(objectives.log_loss, loss, rtol=1e-6)
    assert objectives.rows.tolist() == rows["label_mask"].sum(axis=0).tolist()
    assert np.abs(importance[FEATURES.index("item")]).min() > 1e-3  # far above the tolerance


def test_portfolios_are_the_rows_of_one_domain_and_absent_ones_are_left_out(opened, measured):
    rows = draw_rows(opened.data.splits["validation"], SCHEMA, ShuffleSettings(rows=10_000, seed=4))
    portfolios = measured.portfolios
    assert portfolios.tasks == ("web/click", "web/buy", "app/click")  # nobody buys in the app
    importance, error, loss = measure_slowly(rows, 2, 4, [(0, 0), (1, 0), (0, 1)])
    np.testing.assert_allclose(portfolios.importance, importance, rtol=1e-4, atol=2e-7)
    np.testing.assert_allclose(portfolios.standard_error, error, rtol=1e-4, atol=2e-7)
    np.testing.assert_allclose(portfolios.log_loss, loss, rtol=1e-6)


def test_features_that_the_model_does_not_read_have_exactly_no_importance(measured):
    importance = measured.objectives.importance
    assert (importance[FEATURES.index("shelf")] == 0).all()
    assert importance[FEATURES.index("tags"), 1] == 0
    assert importance[FEATURES.index("tags"), 0] != 0
    assert (importance[FEATURES.index("age")] != 0).all()  # a weight of 0.0001 is still seen


def test_fewer_rows_are_drawn_without_repetition_by_seed(opened):
    source = opened.data.splits["validation"]
    draw = lambda seed: draw_rows(source, SCHEMA, ShuffleSettings(rows=100, seed=seed))["timestamp"]  # noqa: E731
    assert len(set(draw(0).tolist())) == 100
    assert draw(0).tolist() == draw(0).tolist()
    assert draw(0).tolist() != draw(1).tolist()
    assert (draw_rows(source, SCHEMA, ShuffleSettings(rows=600))["weight"] > 0).all()


def test_the_same_seed_gives_the_same_importance(opened):
    once = ShuffleSettings(split="train", rows=64, shuffles=1, seed=1)
    first, again = measure_importance(opened, once), measure_importance(opened, once)
    np.testing.assert_array_equal(first.objectives.importance, again.objectives.importance)
    other = measure_importance(opened, ShuffleSettings(split="train", rows=64, shuffles=1, seed=2))
    assert (first.objectives.importance != other.objectives.importance).any()


def test_the_model_is_compiled_once_for_all_features(opened):
    """Rows that fill two batches and part of a third, six features, two shuffles."""
    predict = opened.run.predict_step
    before = predict._cache_size()
    measure_importance(opened, ShuffleSettings(rows=10_000, shuffles=2, seed=9))
    assert predict._cache_size() == max(before, 1)


def test_an_objective_that_no_row_has_is_refused_by_name(tmp_path):
    columns = draw_columns(300, 3)
    columns["label_mask"][:, 1] = 0
    write_folder(tmp_path / "data", {"train": columns})
    opened = open_logistic_run(tmp_path / "data", TABLES, DENSE, BIAS)
    with pytest.raises(UserError, match=r"objective 'buy': observed in none of the .* rows of split 'train'"):
        measure_importance(opened, ShuffleSettings(split="train", shuffles=1))


def test_a_split_that_is_not_there_is_refused(opened):
    with pytest.raises(UserError, match="split = 'test': the data has only train, validation"):
        measure_importance(opened, ShuffleSettings(split="test"))


@pytest.mark.parametrize(
    ("values", "message"),
    [({"rows": 1}, "rows = 1: must be at least 2"), ({"shuffles": 0}, "shuffles = 0"), ({"seed": -1}, "seed = -1")],
)
def test_settings_out_of_range_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        ShuffleSettings(**values)
