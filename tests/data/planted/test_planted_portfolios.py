import dataclasses
import hashlib
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.repository import ROOT as REPOSITORY
from wukong_jax.data.blocks.conversion_log import load_conversion_log
from wukong_jax.data.blocks.loader import Position, iterate_batches
from wukong_jax.data.blocks.row_blocks import SPLITS, open_row_blocks
from wukong_jax.data.planted.ids import PlantedIds
from wukong_jax.data.planted.portfolios import FIRST_SECOND, PlantedPortfolios
from wukong_jax.data.planted.portfolios_config import PlantedPortfoliosConfig
from wukong_jax.data.planted.portfolios_folder import CONVERSION_FILES, compute_realised_bayes, write_planted_portfolios
from wukong_jax.data.planted.relatedness import PortfolioLogits
from wukong_jax.data.planted.sequences import position_weights
from wukong_jax.data.planted.structures import ZipfSampler
from wukong_jax.errors import UserError
from wukong_jax.metrics.exact_metrics import compute_exact_metrics
from wukong_jax.schema import load_schema

SMALL = PlantedPortfoliosConfig(
    seed=3,
    domains=2,
    domain_shares=(0.7, 0.3),
    objectives=("click", "conversion"),
    base_rates=(0.3, 0.15),
    users_per_segment=3,
    items_per_category=2,
    fields=2,
    values_per_field=20,
    dense_fields=1,
    useless_fields=1,
    useless_dense_fields=1,
    interactions=4,
    sequence_length=3,
    sequence_share=0.25,
    drift_degrees=60.0,
    delayed_objectives=("conversion",),
    delay_hours=(5.0, 20.0),
    train_rows=12_000,
    validation_rows=3_000,
    test_rows=9_000,
)
# Few enough values to list every row: 3 hidden fields and 2 items of history of 6 values.
TINY = dataclasses.replace(
    SMALL, fields=1, values_per_field=6, dense_fields=0, interactions=3, sequence_length=2, drift_degrees=0.0
)


@pytest.fixture(scope="module")
def small() -> PlantedPortfolios:
    return PlantedPortfolios(SMALL)


def list_every_row(config: PlantedPortfoliosConfig) -> tuple[ZipfSampler, np.ndarray, np.ndarray]:
    """Returns all combinations of hidden values and history, [rows, fields + L], and their probabilities, [rows]."""
    sampler = ZipfSampler(config.values_per_field, config.zipf_exponent)
    columns = config.entity_fields + config.sequence_length
    rows = np.array(list(itertools.product(range(1, config.values_per_field + 1), repeat=columns)), np.int32)
    return sampler, rows, sampler.probabilities[rows - 1].prod(axis=1)


def enumerate_logits(config: PlantedPortfoliosConfig, turns: list[float], only_part: int | None = None) -> tuple:
    """Returns (rows, probabilities, logits without bias [turns, rows, G x O]) of the whole distribution."""
    sampler, rows, mass = list_every_row(config)
    planted = PortfolioLogits(np.random.default_rng(5), sampler.probabilities, config)
    values, history = rows[:, : config.entity_fields], rows[:, config.entity_fields :]
    parts = planted.parts(values, np.zeros((len(rows), 0), np.float32), history)
    if only_part is not None:
        parts[np.arange(len(parts)) != only_part] = 0
    logits = [
        [planted.combine(parts, np.full(len(rows), g), np.full(len(rows), turn)) for g in range(config.domains)]
        for turn in turns
    ]
    return rows, mass, np.concatenate([np.concatenate(of_turn, axis=1)[None] for of_turn in logits]).astype(np.float64)


def expected_correlations(config: PlantedPortfoliosConfig) -> np.ndarray:
    """Computes the correlations by the module's docstring, portfolio by portfolio."""
    portfolios = list(itertools.product(range(config.domains), range(len(config.objectives))))
    matrix = np.zeros((len(portfolios), len(portfolios)))
    for i, (g, o) in enumerate(portfolios):
        for j, (h, p) in enumerate(portfolios):
            sign = -1 if (g in config.opposed_domains) != (h in config.opposed_domains) else 1
            by_domain = 1 if g == h else sign * config.domain_relatedness
            matrix[i, j] = by_domain * (1 if o == p else config.objective_relatedness)
    return matrix


@pytest.mark.parametrize(
    "change",
    [
        {"domain_relatedness": 0.6, "objective_relatedness": 0.3},
        {"opposed_domains": (1,), "domain_relatedness": 0.8, "objective_relatedness": 0.5},
        {"opposed_domains": (0,), "domain_relatedness": 1.0, "objective_relatedness": 0.0},
        {"domain_relatedness": 0.0, "objective_relatedness": 1.0, "orders": (2, 3), "latent_width": 4},
        {"domains": 1, "domain_shares": (), "delay_hours": (5.0,), "objective_relatedness": 0.2},
        {"domains": 3, "domain_shares": (), "delay_hours": (5.0,), "objectives": ("a",), "base_rates": (0.5,)}
        | {"delayed_objectives": (), "opposed_domains": (2,)},
    ],
)
def test_logits_have_the_chosen_variance_and_correlations_over_all_rows(change: dict) -> None:
    """The whole distribution enumerated, so nothing is left to chance; float32 logits."""
    config = dataclasses.replace(TINY, **change)
    _, mass, (logits,) = enumerate_logits(config, [0.0])
    np.testing.assert_allclose(mass @ logits, 0, atol=1e-5)
    covariance = (logits * mass[:, None]).T @ logits
    np.testing.assert_allclose(covariance, config.logit_deviation**2 * expected_correlations(config), atol=2e-5)
    stated = PortfolioLogits(np.random.default_rng(0), list_every_row(config)[0].probabilities, config).correlations
    np.testing.assert_allclose(stated, expected_correlations(config), atol=1e-12)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_each_part_has_its_share_and_the_sequence_needs_item_and_history(part: int) -> None:
    config = dataclasses.replace(TINY, order_shares=(0.4, 0.6), sequence_share=0.3)
    rows, mass, (logits,) = enumerate_logits(config, [0.0], only_part=part)
    share = (0.4 * 0.7, 0.6 * 0.7, 0.3)[part]
    np.testing.assert_allclose(mass @ logits**2, share * config.logit_deviation**2, rtol=1e-4)
    hidden, history = (0, 1, 2), (3, 4)
    # given these columns the mean is 0: order 1 nothing, order 2 one of the fields, the sequence all but the
    # history, and all but the item (column 1)
    for given in ([()], [(0,), (1,), (2,), history], [hidden, (0, 2, *history)])[part]:
        key = rows[:, given] @ (7 ** np.arange(len(given))) if given else np.zeros(len(rows), int)
        for column in logits.T:
            np.testing.assert_allclose(np.bincount(key, mass * column), 0, atol=1e-5)


def test_weights_turn_with_time_and_nothing_else_changes() -> None:
    """cov(logit at 0, logit at t) = cos(t) of the variance, for any pair of portfolios; at 0 and 90 degrees 0."""
    config = dataclasses.replace(TINY, values_per_field=7, latent_width=4, interactions=9, drift_degrees=90.0)
    config = dataclasses.replace(config, domains=1, domain_shares=(), delay_hours=(5.0,), sequence_length=1)
    turns = [0.0, 0.4, math.pi / 2]
    _, mass, logits = enumerate_logits(config, turns)
    for first, second in itertools.product(range(3), repeat=2):
        covariance = (logits[first] * mass[:, None]).T @ logits[second]
        expected = math.cos(turns[first] - turns[second]) * config.logit_deviation**2 * expected_correlations(config)
        np.testing.assert_allclose(covariance, expected, atol=3e-5)


def slow_logit(planted: PlantedPortfolios, hidden: np.ndarray, dense: np.ndarray, history: np.ndarray) -> np.ndarray:
    """Computes [parts, components] of one row from the tables, following the docstrings, in float64."""
    config = planted.config
    weights = position_weights(config.sequence_length, config.sequence_decay)
    result = np.zeros((len(config.orders) + 1, len(planted.logits.structures)))
    for c, structure in enumerate(planted.logits.structures):

        def coordinates(field: int, table: np.ndarray) -> np.ndarray:
            in_fields = field < config.entity_fields
            return table[hidden[field]] if in_fields else dense[field - config.entity_fields] * table[0]

        result[0, c] = sum(float(coordinates(f, w)[0]) for f, w in enumerate(structure.weights)) * structure.scales[1]
        for term in structure.terms[2]:
            (f, t), (g, u) = zip(term.fields, term.tables, strict=True)
            product = coordinates(f, structure.tables[t]).astype(np.float64) * coordinates(g, structure.tables[u])
            result[1, c] += product.sum() * structure.scales[2]
        match = planted.logits.matches[c]
        for weight, item in zip(weights, history, strict=True):
            product = match.tables[0][hidden[1]].astype(np.float64) * match.tables[1][item]
            result[2, c] += weight * product.sum() * match.scales[2]
    return result


def hidden_of(ids: PlantedIds) -> np.ndarray:
    """Returns the hidden group of each id."""
    groups = np.zeros(ids.rows, np.int32)
    for domain in ids.ids:
        for group, members in enumerate(domain, start=1):
            groups[members] = group
    return groups


def test_the_logit_equals_its_definition_row_by_row(small: PlantedPortfolios) -> None:
    """From the written columns alone: ids tell segment and category, the row number tells the turn."""
    first = 8000
    rows = small.generate(first, 400)
    segments, categories = hidden_of(small.users), hidden_of(small.items)
    coefficients = small.logits.coefficients  # [phases, P, G, O, C]
    for i in range(0, 400, 8):
        ids, domain = rows.columns["ids"][i], rows.columns["domain"][i]
        hidden = np.array([segments[ids[0]], categories[ids[1]], *ids[2:4]])
        parts = slow_logit(small, hidden, rows.columns["dense"][i], categories[ids[5:]])
        turn = math.radians(60) * (first + i) / 24_000
        for objective in range(2):
            mixed = [(coefficients[phase, :, domain, objective] * parts).sum() for phase in range(2)]
            logit = small.biases[domain, objective] + math.cos(turn) * mixed[0] + math.sin(turn) * mixed[1]
            assert rows.logit[i, objective] == pytest.approx(logit, abs=2e-5)  # float32 sums of about 200 products


def test_opposed_domains_that_are_fully_related_contradict_each_other() -> None:
    config = dataclasses.replace(SMALL, opposed_domains=(1,), domain_relatedness=1.0, drift_degrees=0.0)
    planted = PlantedPortfolios(config)
    logits, _ = planted.sample_logits(8192)
    unbiased = logits - planted.biases[:, None]
    np.testing.assert_allclose(unbiased[0], -unbiased[1], atol=1e-5)


def test_position_weights_fall_with_age() -> None:
    weights = position_weights(4, 0.5)
    np.testing.assert_allclose(weights / weights[-1], [0.125, 0.25, 0.5, 1])
    assert (weights**2).sum() == pytest.approx(1)


def test_any_range_of_rows_is_the_same_however_it_is_cut(small: PlantedPortfolios) -> None:
    whole = small.generate(0, 20_000)
    for first, rows in ((0, 1), (8191, 2), (5000, 12_345), (19_999, 1)):
        part = PlantedPortfolios(SMALL).generate(first, rows) if rows == 2 else small.generate(first, rows)
        np.testing.assert_array_equal(part.logit, whole.logit[first : first + rows])
        np.testing.assert_array_equal(part.converted, whole.converted[first : first + rows])
        for name, array in whole.columns.items():
            assert part.columns[name].dtype == array.dtype
            np.testing.assert_array_equal(part.columns[name], array[first : first + rows])
    assert not np.array_equal(whole.columns["ids"][:8192], whole.columns["ids"][8192:16384])


def test_kept_results_speak_of_the_rows_that_are_made_today(small: PlantedPortfolios) -> None:
    """Ids, labels and conversions of a seed never change: numbers in documents are of these rows."""
    rows = small.generate(0, 1000)
    made = [rows.columns["ids"], rows.columns["labels"], rows.columns["domain"], rows.converted]
    digest = hashlib.sha256(b"".join(array.tobytes() for array in made)).hexdigest()
    assert digest[:16] == "a2fbbe28e52f19a7"


@pytest.mark.parametrize("overlap", [0.0, 0.35, 1.0])
def test_a_share_of_the_ids_is_in_every_domain_and_the_rest_in_one(overlap: float) -> None:
    ids = PlantedIds(np.random.default_rng(0), groups=10, members=6, overlap=overlap, domains=3, zipf_exponent=1.1)
    sets = [set(domain.ravel().tolist()) for domain in ids.ids]
    shared = sets[0] & sets[1] & sets[2]
    assert len(shared) == ids.shared == round(60 * overlap)
    for a, b in itertools.combinations(sets, 2):
        assert a & b == shared
    assert set.union(*sets) == set(range(1, ids.rows))
    # an id means one group
    assert all((hidden_of(ids)[domain] == np.arange(1, 11)[:, None]).all() for domain in ids.ids)


def test_drawn_ids_follow_group_and_member_frequencies() -> None:
    """Each cell's count within 5 deviations of P(group) P(member) rows, and the shared ids' share of rows."""
    ids = PlantedIds(np.random.default_rng(0), groups=5, members=3, overlap=0.4, domains=2, zipf_exponent=1.1)
    groups, members = ZipfSampler(5, 1.1), ZipfSampler(3, 1.1)
    generator = np.random.default_rng(1)
    drawn = groups.draw(generator, (100_000,))
    made = ids.draw(generator, drawn, np.full(100_000, 1, np.int32))
    expected = groups.probabilities[:, None] * members.probabilities * 100_000
    counts = np.bincount(made, minlength=ids.rows)[ids.ids[1]]
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()
    share = ids.shared_row_share(groups.probabilities)
    assert (made <= ids.shared).mean() == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / 100_000))


def test_rows_are_of_their_domain(small: PlantedPortfolios) -> None:
    """Users, items and histories are the domain's own or shared; shares of rows are those asked for."""
    columns = small.generate(0, 24_000).columns
    for g, share in enumerate(SMALL.domain_shares):
        ids = columns["ids"][columns["domain"] == g]
        assert set(ids[:, 0].tolist()) <= set(small.users.ids[g].ravel().tolist())
        assert set(ids[:, [1, 5, 6, 7]].ravel().tolist()) <= set(small.items.ids[g].ravel().tolist())
        assert len(ids) / 24_000 == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / 24_000))
    np.testing.assert_array_equal(columns["group"], columns["ids"][:, 0])


def test_time_runs_evenly_from_the_first_row_to_the_last(small: PlantedPortfolios) -> None:
    seconds = small.generate(0, 24_000).columns["timestamp"]
    assert (np.diff(seconds) >= 0).all()
    np.testing.assert_array_equal(seconds[[0, 12_000]], [FIRST_SECOND, FIRST_SECOND + 7 * 86400])
    assert seconds[-1] < FIRST_SECOND + 14 * 86400


def test_labels_follow_the_true_probability_in_every_portfolio(small: PlantedPortfolios) -> None:
    """In each of 5 bins of the logit, the mean label equals the mean probability within 5 standard errors."""
    rows = small.generate(0, 100_000)
    for g, o in itertools.product(range(2), range(2)):
        own = rows.columns["domain"] == g
        labels = rows.columns["labels"][own, o]
        probability = 1 / (1 + np.exp(-rows.logit[own, o].astype(np.float64)))
        for bin_rows in np.array_split(np.argsort(probability), 5):
            error = math.sqrt((probability[bin_rows] * (1 - probability[bin_rows])).mean() / len(bin_rows))
            assert abs(labels[bin_rows].mean() - probability[bin_rows].mean()) < 5 * error
        # the bias is set on 65,536 other rows: two samples' errors
        error = probability.std() * math.sqrt(1 / 65_536 + 1 / own.sum())
        assert probability.mean() == pytest.approx(SMALL.base_rates[o], abs=5 * error)


def test_only_positives_of_delayed_objectives_convert_and_before_the_longest_window(small: PlantedPortfolios) -> None:
    rows = small.generate(0, 24_000)
    converted = rows.converted >= 0
    assert not converted[:, 0].any()
    np.testing.assert_array_equal(converted[:, 1], rows.columns["labels"][:, 1] == 1)
    delays = (rows.converted[:, 1] - rows.columns["timestamp"])[converted[:, 1]]
    assert delays.min() >= 0
    assert delays.max() <= 168 * 3600


def test_delays_are_exponential_of_the_rows_scale_cut_at_the_longest_window(small: PlantedPortfolios) -> None:
    """Drawn at given uniforms: the closed form of the cut exponential; scales by domain, with z of unit variance."""
    scale, longest = np.array([600.0, 1e6, 36_000.0]), 168 * 3600
    uniform = np.array([0.1, 0.5, 0.999])
    delays = small.delays.draw(uniform, scale)
    below = (1 - np.exp(-delays / scale)) / (1 - np.exp(-longest / scale))
    before = (1 - np.exp(-(delays - 1) / scale)) / (1 - np.exp(-longest / scale))
    assert ((before < uniform) & (uniform <= below)).all()
    np.testing.assert_allclose(small.delays.share_within(3600, scale[1:2]), 3594 / 453_916, rtol=1e-2)
    draws = small._draw_block(0, 0)
    scales = small.delays.scales(draws.values, draws.dense, draws.domain)[:, 0] / 3600
    for g, hours in enumerate(SMALL.delay_hours):
        logs = np.log(scales[draws.domain == g])
        assert logs.mean() == pytest.approx(math.log(hours), abs=0.06)  # 0.5 / sqrt(2500) x 5
        assert logs.std() == pytest.approx(SMALL.delay_deviation, rel=0.15)


def test_conversions_within_a_window_are_as_many_as_stated(small: PlantedPortfolios) -> None:
    """P(converted within w) = sigmoid(logit) * share_within(w): observed counts within 5 standard errors."""
    converted, expected, variance = np.zeros(2), np.zeros(2), np.zeros(2)
    windows = np.array([3600, 86_400])
    for block in range(6):
        rows, draws = small.generate(block * 8192, 8192), small._draw_block(4, block)
        scales = small.delays.scales(draws.values, draws.dense, draws.domain)
        shares = np.concatenate([small.delays.share_within(window, scales) for window in windows], axis=1)
        probability = shares / (1 + np.exp(-rows.logit[:, 1:].astype(np.float64)))
        delays = rows.converted[:, 1:] - rows.columns["timestamp"][:, None]
        converted += ((rows.converted[:, 1:] >= 0) & (delays <= windows)).sum(axis=0)
        expected += probability.sum(axis=0)
        variance += (probability * (1 - probability)).sum(axis=0)
    assert (expected > 100).all()
    assert (np.abs(converted - expected) < 5 * np.sqrt(variance)).all()


def test_changed_logits_are_worse_than_bayes_in_every_portfolio(small: PlantedPortfolios) -> None:
    rows = small.generate(0, 65_536)
    columns, logit = rows.columns, rows.logit.astype(np.float64)

    def losses(scores: np.ndarray) -> np.ndarray:
        loss = np.logaddexp(0, scores) - columns["labels"] * scores
        return np.stack([loss[columns["domain"] == g].mean(axis=0) for g in range(2)])

    noise = np.random.default_rng(0).normal(0, 0.5, logit.shape)
    for changed in (logit + noise, 1.2 * logit, 0.8 * logit, logit[:, ::-1], logit + 0.2):
        assert (losses(logit) < losses(changed)).all()


def test_an_absent_portfolio_is_masked_and_has_no_labels(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, absent_portfolios=("domain_1/conversion",), train_rows=1000)
    planted = PlantedPortfolios(config)
    rows = planted.generate(0, 8192)
    absent = rows.columns["domain"] == 1
    np.testing.assert_array_equal(rows.columns["label_mask"], np.stack([np.ones(8192), ~absent], axis=1))
    assert not rows.columns["labels"][absent, 1].any()
    assert (rows.converted[absent] == -1).all()
    report = write_planted_portfolios(config, tmp_path / "data", sample_rows=1 << 14)
    for bayes in report["bayes"].values():
        assert "domain_1/click/log_loss" in bayes
        assert "domain_1/conversion/log_loss" not in bayes
        assert bayes["conversion/log_loss"] == pytest.approx(bayes["domain_0/conversion/log_loss"], rel=0.03)


def test_useless_columns_are_named_and_others_are_not() -> None:
    planted = PlantedPortfolios(SMALL)
    assert planted.list_useless() == ["useless_0", "useless_dense_0"]
    config = dataclasses.replace(SMALL, sequence_share=0.0, domain_as_field=True)
    assert PlantedPortfolios(config).list_useless() == ["useless_0", "useless_dense_0", "history"]
    # one term a component: with relatedness 1 there is one component, so two columns are in use
    alone = {"orders": (2,), "order_shares": (1.0,), "interactions": 1, "domain_relatedness": 1.0, "drift_degrees": 0.0}
    few = PlantedPortfolios(dataclasses.replace(SMALL, objective_relatedness=1.0, sequence_share=0.0, **alone))
    ((term,),) = (structure.terms[2] for structure in few.logits.structures)
    named = ["user", "item", "field_0", "field_1", "dense_0"]
    used = {named[field] for field in term.fields}
    assert set(few.list_useless()) == (set(named) - used) | {"useless_0", "useless_dense_0", "history"}


def test_the_domain_can_be_a_column_too() -> None:
    planted = PlantedPortfolios(dataclasses.replace(SMALL, domain_as_field=True))
    columns = planted.generate(0, 100).columns
    place = [column.name for column in planted.schema().id_columns].index("domain_id")
    np.testing.assert_array_equal(columns["ids"][:, place], columns["domain"] + 1)
    assert planted.schema().vocabulary_rows()["domain_id"] == 3


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("planted") / "data"
    write_planted_portfolios(SMALL, directory, sample_rows=1 << 16)
    return directory


def read_split(directory: Path, split: str) -> dict[str, np.ndarray]:
    blocks = open_row_blocks(directory, split)
    parts = [blocks.read(i) for i in range(blocks.num_blocks)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_a_written_folder_holds_the_generated_rows(written: Path, small: PlantedPortfolios) -> None:
    schema = load_schema(written / "schema.json")
    assert schema == small.schema()
    assert schema.slots == 2 + 2 + 1 + 3
    last = 0
    for split in SPLITS:
        made = small.generate(small.first_row(split), SMALL.rows(split)).columns
        read = read_split(written, split)
        for name, array in made.items():
            np.testing.assert_array_equal(read[name], array)
        assert read["timestamp"][0] >= last
        last = read["timestamp"][-1]
        for column, start, stop in schema.slot_ranges():
            assert read["ids"][:, start:stop].max() < schema.vocabulary_rows()[column.vocabulary]


def test_conversion_logs_are_the_positives_of_their_split(written: Path, small: PlantedPortfolios) -> None:
    for split in SPLITS:
        log = load_conversion_log(written / CONVERSION_FILES[split])
        read = read_split(written, split)
        assert (log.objective == 1).all()
        assert sorted(log.impression.tolist()) == np.flatnonzero(read["labels"][:, 1]).tolist()
        converted = small.generate(small.first_row(split), SMALL.rows(split)).converted
        np.testing.assert_array_equal(log.timestamp, converted[log.impression, 1])


def test_no_log_is_written_where_nothing_is_delayed(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, delayed_objectives=(), train_rows=1000, validation_rows=0, test_rows=500)
    report = write_planted_portfolios(config, tmp_path / "data", sample_rows=1 << 14)
    assert not list((tmp_path / "data").glob("*.npz"))
    assert report["delays"] == {}
    assert report["bayes"].keys() == {"expected", "test"}


def test_bayes_metrics_are_named_and_averaged_as_a_runs_are(written: Path, small: PlantedPortfolios) -> None:
    """The trainer's own metrics of the true logits; what both name must agree to float64's rounding."""
    bayes = json.loads((written / "report.json").read_text())["bayes"]
    assert bayes.keys() == {"expected", "validation", "test"}
    rows = small.generate(small.first_row("test"), SMALL.test_rows)
    columns = [rows.columns[name] for name in ("labels", "label_mask", "weight", "domain")]
    metrics = compute_exact_metrics(rows.logit, *columns, SMALL.objectives, SMALL.domain_names)
    prefixes = ["", *(f"{name}/" for name in SMALL.objectives)]
    prefixes += [f"{domain}/{name}/" for domain in SMALL.domain_names for name in SMALL.objectives]
    for prefix, key in itertools.product(prefixes, ("log_loss", "auc", "normalized_entropy")):
        assert bayes["test"][prefix + key] == pytest.approx(metrics[prefix + key], rel=1e-9)


def test_one_portfolio_is_named_without_prefixes() -> None:
    config = dataclasses.replace(
        SMALL,
        domains=1,
        domain_shares=(),
        delay_hours=(1.0,),
        objectives=("a",),
        base_rates=(0.5,),
        delayed_objectives=(),
    )
    logit, labels = np.array([[0.5], [-1.0], [2.0]]), np.array([[1], [0], [1]])
    named = compute_realised_bayes(config, logit, labels, np.ones((3, 1)), np.zeros(3))
    assert named["rows"] == 3
    assert named["auc"] == 1
    assert not any("/" in name for name in named)
    assert compute_realised_bayes(config, logit, np.ones((3, 1)), np.ones((3, 1)), np.zeros(3)) == {}


def test_expected_and_realised_bayes_agree(written: Path) -> None:
    bayes = json.loads((written / "report.json").read_text())["bayes"]
    for prefix in ("click", "domain_0/click", "domain_1/click", "domain_0/conversion", "domain_1/conversion"):
        for key in ("log_loss", "auc"):
            errors = [bayes[split][f"{prefix}/{key}_standard_error"] for split in ("expected", "test")]
            difference = bayes["expected"][f"{prefix}/{key}"] - bayes["test"][f"{prefix}/{key}"]
            assert abs(difference) < 4 * math.hypot(*errors)


def test_the_report_names_what_was_planted(written: Path, small: PlantedPortfolios) -> None:
    report = json.loads((written / "report.json").read_text())
    assert report["rows"] == {"train": 12_000, "validation": 3_000, "test": 9_000}
    assert report["config"]["drift_degrees"] == 60.0
    assert report["portfolios"][1] == "domain_0/conversion"
    np.testing.assert_allclose(report["correlations"], expected_correlations(SMALL), atol=1e-9)
    assert report["biases"]["domain_1/click"] == small.biases[1, 0]
    assert report["useless"] == ["useless_0", "useless_dense_0"]
    assert (report["ids"]["user"]["of_a_domain"], report["ids"]["user"]["shared"]) == (60, 30)
    log = load_conversion_log(written / "conversions.npz")
    hours = (log.timestamp - read_split(written, "train")["timestamp"][log.impression]) / 3600
    assert report["delays"]["conversion"]["conversions"] == len(log)
    assert report["delays"]["conversion"]["median_hours"] == pytest.approx(np.median(hours))
    assert report["delays"]["conversion"]["share_within_hours"]["24"] == pytest.approx((hours <= 24).mean())


def test_the_written_rows_feed_the_loader(written: Path) -> None:
    blocks = open_row_blocks(written, "train")
    options = {"position": Position(0, 1, 0), "shuffle": True, "epochs": 1}
    batches = [batch for batch, _ in iterate_batches(blocks, blocks.schema, 4096, **options)]
    assert sum(float(batch.weight.sum()) for batch in batches) == 12_000
    assert batches[0].labels.shape == (4096, 2)


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        write_planted_portfolios(SMALL, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_empty_sample_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sample_rows = 0: must be at least 1"):
        write_planted_portfolios(SMALL, tmp_path / "data", sample_rows=0)


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise UserError("conversions.npz: cannot write (No space left on device)")

    monkeypatch.setattr("wukong_jax.data.planted.portfolios_folder.save_conversion_log", fail)
    with pytest.raises(UserError, match="No space left"):
        write_planted_portfolios(dataclasses.replace(SMALL, train_rows=100), tmp_path / "data", sample_rows=100)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"domains": 0}, "domains = 0: must be at least 1"),
        ({"domain_shares": (0.5, 0.6)}, "domain_shares = .*2 of sum 1, or empty"),
        ({"domain_shares": (1.0,)}, "domain_shares = .*2 of sum 1"),
        ({"objectives": ("a", "a")}, "objectives = .*distinct names"),
        ({"objectives": ("a/b", "c")}, "objectives = .*without '/'"),
        ({"base_rates": (0.5,)}, "base_rates = .*one for each"),
        ({"absent_portfolios": ("domain_5/click",)}, "absent_portfolios = 'domain_5/click': must be of domain_0/click"),
        (
            {"absent_portfolios": ("domain_0/click", "domain_1/click")},
            "absent_portfolios = .*such that 'click' is in some domain",
        ),
        ({"domain_relatedness": 1.5}, r"domain_relatedness = 1\.5: must be at least 0 and at most 1"),
        ({"objective_relatedness": -0.1}, r"objective_relatedness = -0\.1"),
        ({"opposed_domains": (2,)}, r"opposed_domains = \(2,\): must be distinct domains, 0 to 1"),
        ({"opposed_domains": (1,), "domain_relatedness": 0.0}, "domain_relatedness = 0: must be above 0 with opposed"),
        ({"user_overlap": 2.0}, "user_overlap"),
        ({"items_per_category": 0}, "items_per_category = 0"),
        ({"users_per_segment": 2**30}, r"users_per_segment = .*below 2\^31"),
        ({"useless_fields": -1}, "useless_fields = -1"),
        ({"values_per_field": 2}, "values_per_field = 2: must be at least 3"),
        ({"orders": (2, 1)}, "orders = .*ascending"),
        ({"order_shares": (0.5, 0.6)}, "order_shares = .*of sum 1"),
        ({"sequence_share": 1.0}, r"sequence_share = 1\.0"),
        ({"sequence_length": 0}, "sequence_length = 0: must be above 0 with a sequence_share"),
        ({"sequence_decay": 0.0}, "sequence_decay"),
        ({"days": 0.0}, "days"),
        ({"drift_degrees": -1.0}, "drift_degrees"),
        ({"delayed_objectives": ("like",)}, "delayed_objectives = .*of click, conversion"),
        ({"delay_hours": (1.0, 2.0, 3.0)}, "delay_hours = .*one or 2"),
        ({"longest_window_hours": 0.0}, r"longest_window_hours = 0\.0"),
        ({"test_rows": -5}, "test_rows = -5"),
        ({"train_rows": 0, "validation_rows": 0, "test_rows": 0}, "train_rows = 0"),
    ],
)
def test_impossible_configs_are_refused_by_name(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(SMALL, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"orders": (1, 2, 7), "order_shares": (0.2, 0.4, 0.4)}, "orders = 7: needs 7 fields, there are 4"),
        ({"values_per_field": 4}, "values_per_field = 4: order 1 has no room for 18 uncorrelated components"),
        ({"values_per_field": 10**7, "latent_width": 8, "users_per_segment": 1}, "values_per_field = .*the limit"),
    ],
)
def test_impossible_structures_are_refused_by_name(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        PlantedPortfolios(dataclasses.replace(SMALL, **change))


def test_the_script_takes_every_setting(tmp_path: Path) -> None:
    settings = ["--domains=2", "--objectives=click,buy", "--base_rates=0.3,0.2", "--opposed_domains=1"]
    settings += ["--delayed_objectives=buy", "--domain_as_field", "--values_per_field=20"]
    settings += ["--train_rows=500", "--validation_rows=0", "--test_rows=300", "--sample_rows=8192"]
    command = [sys.executable, "scripts/make_planted_portfolios.py", f"--output={tmp_path / 'data'}", *settings]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, env={"PYTHONPATH": str(REPOSITORY)})
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "data" / "report.json").read_text())
    assert report["config"]["domain_as_field"] is True
    assert report["correlations"][0][2] == -0.7
