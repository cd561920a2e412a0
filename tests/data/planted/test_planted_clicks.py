import dataclasses
import hashlib
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from wukong_jax.data.blocks.loader import Position, iterate_batches
from wukong_jax.data.blocks.row_blocks import SPLITS, open_row_blocks
from wukong_jax.data.planted.clicks import PlantedClicks, write_planted_clicks
from wukong_jax.data.planted.clicks_config import PlantedClicksConfig
from wukong_jax.data.planted.structures import PlantedLogit, ZipfSampler
from wukong_jax.data.planted.subsets import draw_groups
from wukong_jax.errors import UserError
from wukong_jax.schema import load_schema

SMALL = PlantedClicksConfig(
    seed=3,
    fields=6,
    values_per_field=20,
    dense_fields=2,
    orders=(1, 2, 4),
    order_shares=(0.2, 0.5, 0.3),
    interactions=8,
    train_rows=20_000,
    validation_rows=3_000,
    test_rows=9_000,
)
GROUPED = dataclasses.replace(SMALL, fields=16, orders=(1, 2, 4), interactions=24, groups=4)
STRUCTURES = ("factorized", "field_aware")


def slow_parts(clicks: PlantedClicks, ids: np.ndarray, dense: np.ndarray) -> np.ndarray:
    """Computes each order's part row by row from the tables, following the module's docstring."""
    logit, config = clicks.structure, clicks.config

    def coordinates(field: int, table: np.ndarray, row: int) -> np.ndarray:
        return table[ids[row, field]] if field < config.fields else dense[row, field - config.fields] * table[0]

    parts = np.zeros((len(config.orders), len(ids)))
    for i, order in enumerate(config.orders):
        for row in range(len(ids)):
            total = 0.0
            if order == 1:
                for field, table in enumerate(logit.weights):
                    total += float(coordinates(field, table, row)[0])
            else:
                for term in logit.terms[order]:
                    for k in range(config.latent_width):
                        product = 1.0
                        for field, table in zip(term.fields, term.tables, strict=True):
                            product *= float(coordinates(field, logit.tables[table], row)[k])
                        total += product
            parts[i, row] = total * logit.scales[order]
    return parts


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_logit_equals_its_definition_row_by_row(structure: str) -> None:
    clicks = PlantedClicks(dataclasses.replace(SMALL, structure=structure))
    columns, logit = clicks.generate(5000, 200)
    parts = slow_parts(clicks, columns["ids"], columns["dense"])
    weights = np.sqrt(SMALL.order_shares) * SMALL.logit_deviation
    # float32 sums of about 30 terms of order 1 against float64
    np.testing.assert_allclose(logit, clicks.bias + weights @ parts, atol=1e-5)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_every_order_is_pure_and_of_unit_variance_over_all_value_combinations(structure: str) -> None:
    """The whole distribution enumerated: 4 fields of 4 values, 256 rows with their probabilities."""
    sampler = ZipfSampler(4, 1.1)
    logit = PlantedLogit(
        np.random.default_rng(0),
        sampler.probabilities,
        fields=4,
        dense_fields=0,
        structure=structure,
        orders=(1, 2, 3, 4),
        interactions=3,
        latent_width=2,
    )
    ids = np.array(list(itertools.product(range(1, 5), repeat=4)), np.int32)
    weight = sampler.probabilities[ids - 1].prod(axis=1)
    parts = logit.parts(ids, np.zeros((256, 0), np.float32)).astype(np.float64)
    np.testing.assert_allclose((parts * weight) @ parts.T, np.eye(4), atol=1e-5)
    for i, order in enumerate(logit.orders):
        for given in itertools.combinations(range(4), order - 1):
            # the mean of the part for each combination of `order - 1` fields' values
            key = ids[:, given] @ (4 ** np.arange(order - 1)) if given else np.zeros(256, int)
            means = np.bincount(key, parts[i] * weight) / np.maximum(np.bincount(key, weight), 1e-30)
            np.testing.assert_allclose(means, 0, atol=1e-5)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_measured_variance_shares_are_those_asked_for(structure: str) -> None:
    """A variance of kurtosis k over n rows has the relative deviation sqrt((k - 1) / n); bounds at 5 deviations."""
    shape = {"structure": structure, "fields": 16, "orders": (1, 2, 4, 8), "order_shares": (0.1, 0.4, 0.3, 0.2)}
    config = dataclasses.replace(SMALL, **shape)
    clicks = PlantedClicks(config)
    columns, logit = clicks.generate(0, 400_000)
    parts = clicks.structure.parts(columns["ids"], columns["dense"])
    factors = np.sqrt(config.order_shares) * config.logit_deviation
    shares = (parts * factors[:, None]).var(axis=1) / logit.var()
    kurtosis = (parts**4).mean(axis=1).max()
    tolerance = 5 * math.sqrt((kurtosis - 1) / 400_000)
    np.testing.assert_allclose(shares, config.order_shares, rtol=2 * tolerance)  # 2: the total's error on top
    assert logit.std() == pytest.approx(config.logit_deviation, rel=tolerance)
    assert np.abs(np.corrcoef(parts) - np.eye(4)).max() < tolerance


def test_terms_are_distinct_and_use_all_fields_alike() -> None:
    clicks = PlantedClicks(
        dataclasses.replace(SMALL, fields=16, orders=(2, 4), order_shares=(0.5, 0.5), interactions=32)
    )
    for order, terms in clicks.structure.terms.items():
        subsets = {term.fields for term in terms}
        assert len(subsets) == 32
        assert all(len(subset) == order == len(set(subset)) for subset in subsets)
        counts = np.bincount([field for subset in subsets for field in subset])
        assert counts.max() - counts.min() <= 4
    assert max(field for term in clicks.structure.terms[4] for field in term.fields) < 16


def test_all_subsets_are_taken_where_there_are_fewer_than_asked_for() -> None:
    clicks = PlantedClicks(dataclasses.replace(SMALL, interactions=1000))
    assert len(clicks.structure.terms[2]) == math.comb(8, 2)  # dense fields join
    assert len(clicks.structure.terms[4]) == math.comb(6, 4)  # and do not


@pytest.mark.parametrize(
    ("change", "digest"),
    [
        ({}, "2ccd861692fd8977"),
        ({"structure": "field_aware"}, "c0074a6edb52950a"),
    ],
)
def test_kept_results_speak_of_the_rows_that_are_made_today(change: dict, digest: str) -> None:
    """Ids and labels of a seed never change: the numbers in documents and configs' headers are of these rows."""
    columns, _ = PlantedClicks(dataclasses.replace(SMALL, **change)).generate(0, 1000)
    made = hashlib.sha256(columns["ids"].tobytes() + columns["labels"].tobytes())
    assert made.hexdigest()[:16] == digest


@pytest.mark.parametrize(("fields", "groups"), [(4, 2), (5, 2), (16, 4), (26, 8)])
def test_groups_are_even_random_and_neither_neighbours_nor_strided(fields: int, groups: int) -> None:
    seen = set()
    for seed in range(20):
        drawn = draw_groups(np.random.default_rng(seed), fields, groups)
        assert sorted(field for group in drawn for field in group) == list(range(fields))
        assert {len(group) for group in drawn} <= {fields // groups, -(-fields // groups)}
        assert drawn != tuple(tuple(range(first, fields, groups)) for first in range(groups))
        assert any(field + 1 not in group for group in drawn for field in group[:-1])
        seen.add(drawn)
    assert len(seen) > 1 or fields == 4  # 4 fields have one partition that is neither


@pytest.mark.parametrize("structure", STRUCTURES)
def test_terms_join_fields_of_one_group_and_spread_over_the_groups(structure: str) -> None:
    clicks = PlantedClicks(dataclasses.replace(GROUPED, structure=structure))
    groups = clicks.structure.groups
    assert [[f"field_{field}" for field in group] for group in groups] == clicks.groups
    for order, wanted in ((2, 24), (4, 4)):  # a group of 4 fields has 6 pairs and one quadruple
        subsets = [term.fields for term in clicks.structure.terms[order]]
        assert len(set(subsets)) == len(subsets) == wanted
        inside = [sum(set(subset) <= set(group) for subset in subsets) for group in groups]
        assert inside == [wanted // 4] * 4


def test_a_share_of_the_terms_crosses_groups() -> None:
    clicks = PlantedClicks(dataclasses.replace(GROUPED, group_share=0.75, orders=(1, 2), order_shares=(0.3, 0.7)))
    subsets = [set(term.fields) for term in clicks.structure.terms[2]]
    crossing = [subset for subset in subsets if not any(subset <= set(group) for group in clicks.structure.groups)]
    assert (len(subsets), len(crossing)) == (24, 6)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_grouped_orders_are_pure_and_of_the_shares_asked_for(share: float) -> None:
    """As without groups; dense fields are in no term. A variance's bound is 5 deviations, from its kurtosis."""
    config = dataclasses.replace(GROUPED, group_share=share)
    clicks = PlantedClicks(config)
    columns, logit = clicks.generate(0, 200_000)
    parts = clicks.structure.parts(columns["ids"], columns["dense"])
    tolerance = 5 * math.sqrt(((parts**4).mean(axis=1).max() - 1) / 200_000)
    np.testing.assert_allclose(parts.var(axis=1), 1, rtol=tolerance)
    assert np.abs(np.corrcoef(parts) - np.eye(3)).max() < tolerance
    assert logit.std() == pytest.approx(config.logit_deviation, rel=tolerance)
    rows = slice(0, 50)
    expected = slow_parts(clicks, columns["ids"][rows], columns["dense"][rows])
    np.testing.assert_allclose(parts[:, rows], expected, atol=1e-5)  # float32 sums against float64
    assert max(field for terms in clicks.structure.terms.values() for term in terms for field in term.fields) < 16


def test_floors_of_orders_are_the_least_losses_of_functions_of_so_many_fields() -> None:
    """Against Newton's method on dense one-hot products of all pairs of fields, and of single fields."""
    few = dataclasses.replace(SMALL, fields=3, values_per_field=3, dense_fields=0, orders=(1, 2, 3), interactions=3)
    clicks = PlantedClicks(few)
    floors = clicks.order_floors()
    assert floors is not None
    assert list(floors) == ["0", "1", "2", "3"]
    rows = np.array(list(itertools.product((1, 2, 3), repeat=3)), np.int32)
    parts = clicks.structure.parts(rows, np.zeros((27, 0), np.float32)).astype(np.float64)
    logit = (
        sum(math.sqrt(share) * 1.5 * part for share, part in zip(few.order_shares, parts, strict=True)) + clicks.bias
    )
    probability, frequencies = 1 / (1 + np.exp(-logit)), 1 / np.arange(1, 4) ** few.zipf_exponent
    chance = (frequencies / frequencies.sum())[rows - 1].prod(axis=1)
    losses = {}
    for order in (0, 1, 2, 3):
        sets = list(itertools.combinations(range(3), order))
        features = np.stack(
            [
                (rows[:, list(fields)] == np.array(values)).all(axis=1)
                for fields in sets
                for values in itertools.product((1, 2, 3), repeat=order)
            ],
            axis=1,
        ).astype(np.float64)
        weights = np.zeros(features.shape[1])
        for _ in range(60):
            guess = 1 / (1 + np.exp(-features @ weights))
            curvature = (features * (chance * guess * (1 - guess))[:, None]).T @ features
            slope = features.T @ (chance * (guess - probability))
            weights -= np.linalg.lstsq(curvature, slope, rcond=1e-10)[0]  # one-hots add up to the same: not invertible
        guess = 1 / (1 + np.exp(-features @ weights))
        losses[str(order)] = -chance @ (probability * np.log(guess) + (1 - probability) * np.log1p(-guess))
    for order, loss in losses.items():
        assert floors[order] == pytest.approx(loss, abs=1e-6), order
    bayes = clicks.expected_metrics()
    assert floors["3"] == pytest.approx(bayes.log_loss, abs=5 * bayes.log_loss_standard_error)
    assert floors["1"] - floors["2"] > 0.01 < floors["2"] - floors["3"]


def test_floors_need_few_rows_to_enumerate() -> None:
    assert PlantedClicks(dataclasses.replace(SMALL, dense_fields=0)).order_floors() is None  # 20 ** 6
    assert PlantedClicks(dataclasses.replace(SMALL, fields=4, values_per_field=3)).order_floors() is None  # dense ones


def test_the_groups_are_in_the_report(tmp_path: Path) -> None:
    config = dataclasses.replace(GROUPED, train_rows=1000, validation_rows=0, test_rows=0)
    report = write_planted_clicks(config, tmp_path / "data")
    assert report["groups"] == PlantedClicks(config).groups
    assert sorted(map(len, report["groups"])) == [4, 4, 4, 4]
    assert PlantedClicks(SMALL).groups == []


@pytest.mark.parametrize(("values", "exponent"), [(2, 0.0), (50, 1.1), (1000, 1.3), (7, 3.0)])
def test_the_alias_tables_hold_exactly_the_zipf_probabilities(values: int, exponent: float) -> None:
    sampler = ZipfSampler(values, exponent)
    mass = sampler._keep.copy()
    np.add.at(mass, sampler._alias, 1 - sampler._keep)
    weights = np.arange(1, values + 1) ** -float(exponent)
    np.testing.assert_allclose(mass / values, weights / weights.sum(), rtol=1e-9)
    np.testing.assert_allclose(sampler.probabilities, weights / weights.sum(), rtol=1e-12)


def test_drawn_values_follow_the_probabilities() -> None:
    """Chi-squared of 30 values over 200 k draws: 29 +- 7.6; bound at 5 deviations."""
    sampler = ZipfSampler(30, 1.1)
    drawn = sampler.draw(np.random.default_rng(0), (200_000,))
    assert drawn.dtype == np.int32
    assert (drawn.min(), drawn.max()) == (1, 30)
    expected = sampler.probabilities * 200_000
    assert ((np.bincount(drawn, minlength=31)[1:] - expected) ** 2 / expected).sum() < 29 + 5 * 7.6


def test_any_range_of_rows_is_the_same_however_it_is_cut() -> None:
    clicks = PlantedClicks(SMALL)
    whole, logits = clicks.generate(0, 20_000)
    for first, rows in ((0, 1), (8191, 2), (100, 0), (5000, 12_345), (19_999, 1)):
        part, logit = PlantedClicks(SMALL).generate(first, rows)
        np.testing.assert_array_equal(logit, logits[first : first + rows])
        for name, array in whole.items():
            assert part[name].dtype == array.dtype
            np.testing.assert_array_equal(part[name], array[first : first + rows])


def test_seeds_differ_and_rows_do_not_repeat() -> None:
    columns, logit = PlantedClicks(SMALL).generate(0, 16_384)
    other, other_logit = PlantedClicks(dataclasses.replace(SMALL, seed=4)).generate(0, 16_384)
    assert not np.array_equal(columns["ids"], other["ids"])
    assert abs(np.corrcoef(logit, other_logit)[0, 1]) < 0.05
    assert not np.array_equal(columns["ids"][:8192], columns["ids"][8192:])


@pytest.mark.parametrize("base_rate", [0.02, 0.25, 0.9])
def test_labels_follow_the_true_probability(base_rate: float) -> None:
    """In each of 10 bins of the logit, the mean label equals the mean probability within 5 standard errors."""
    clicks = PlantedClicks(dataclasses.replace(SMALL, base_rate=base_rate))
    columns, logit = clicks.generate(0, 200_000)
    labels, probability = columns["labels"][:, 0], 1 / (1 + np.exp(-logit.astype(np.float64)))
    for rows in np.array_split(np.argsort(logit), 10):
        error = math.sqrt((probability[rows] * (1 - probability[rows])).mean() / len(rows))
        assert abs(labels[rows].mean() - probability[rows].mean()) < 5 * error
    # the bias is set on 131 k other rows: two samples' errors
    assert probability.mean() == pytest.approx(
        base_rate, abs=5 * probability.std() * math.sqrt(1 / 131_072 + 1 / 200_000)
    )


@pytest.mark.parametrize("structure", STRUCTURES)
def test_bayes_metrics_are_those_of_the_true_probabilities(structure: str, tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, structure=structure, test_rows=200_000, train_rows=1000)
    report = write_planted_clicks(config, tmp_path / "data")
    expected, test = report["bayes"]["expected"], report["bayes"]["test"]
    for key in ("log_loss", "auc"):
        error = math.hypot(expected[f"{key}_standard_error"], test[f"{key}_standard_error"])
        assert abs(expected[key] - test[key]) < 4 * error
    assert test["normalized_entropy"] == pytest.approx(expected["normalized_entropy"], abs=0.02)
    assert 0.5 < expected["auc"] < 1


def test_scrambled_logits_are_worse_than_bayes() -> None:
    """The stated optimum is one: changing the true logits by a little raises the log loss."""
    columns, logit = PlantedClicks(SMALL).generate(0, 200_000)
    labels = columns["labels"][:, 0].astype(np.float64)

    def loss(scores: np.ndarray) -> float:
        return float((np.logaddexp(0, scores) - labels * scores).mean())

    logit = logit.astype(np.float64)
    noise = np.random.default_rng(0).normal(0, 0.3, len(logit))
    assert loss(logit) < min(loss(logit + noise), loss(1.1 * logit), loss(0.9 * logit), loss(logit + 0.1))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("planted") / "data"
    write_planted_clicks(SMALL, directory)
    return directory


def test_a_written_folder_holds_the_generated_rows(written: Path) -> None:
    clicks = PlantedClicks(SMALL)
    assert load_schema(written / "schema.json") == clicks.schema()
    assert clicks.schema().vocabulary_rows() == {f"field_{i}": 21 for i in range(6)}
    for split in SPLITS:
        blocks, source = open_row_blocks(written, split), clicks.source(split)
        assert (
            (blocks.rows, blocks.num_blocks)
            == (source.rows, source.num_blocks)
            == (SMALL.rows(split), blocks.num_blocks)
        )
        rows = {
            name: np.concatenate([blocks.read(i)[name] for i in range(blocks.num_blocks)]) for name in ("ids", "labels")
        }
        columns, _ = clicks.generate(clicks.first_row(split), SMALL.rows(split))
        for name, array in rows.items():
            np.testing.assert_array_equal(array, columns[name])
        for i in range(blocks.num_blocks):
            assert blocks.block_rows(i) == source.block_rows(i)
            np.testing.assert_array_equal(blocks.read(i)["dense"], source.read(i)["dense"])


def test_splits_do_not_overlap() -> None:
    clicks = PlantedClicks(SMALL)
    ranges = [(clicks.first_row(split), clicks.first_row(split) + SMALL.rows(split)) for split in SPLITS]
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ranges))


def test_the_report_names_what_was_planted(written: Path) -> None:
    report = json.loads((written / "report.json").read_text())
    assert report["rows"] == {"train": 20_000, "validation": 3_000, "test": 9_000}
    assert report["config"]["order_shares"] == [0.2, 0.5, 0.3]
    assert {"log_loss", "auc", "normalized_entropy"} < report["bayes"]["test"].keys()
    assert report["bayes"].keys() == {"expected", "validation", "test"}


def test_a_generated_source_feeds_the_loader_like_the_written_one(written: Path) -> None:
    clicks = PlantedClicks(SMALL)
    options = {"position": Position(0, 1, 0), "shuffle": True, "epochs": 1, "window_rows": 16_384}
    made = iterate_batches(clicks.source("train"), clicks.schema(), 4096, **options)
    read = iterate_batches(open_row_blocks(written, "train"), clicks.schema(), 4096, **options)
    for (batch, _), (other, _) in zip(made, read, strict=True):
        np.testing.assert_array_equal(batch.ids, other.ids)
        np.testing.assert_array_equal(batch.labels, other.labels)


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        write_planted_clicks(SMALL, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, columns: object) -> None:
        raise UserError("test-00000.array_record: cannot write (No space left on device)")

    monkeypatch.setattr("wukong_jax.data.blocks.row_blocks.BlockWriter.append", fail)
    with pytest.raises(UserError, match="No space left"):
        write_planted_clicks(SMALL, tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order_shares": (0.5, 0.5)}, "order_shares = .*one for each"),
        ({"order_shares": (0.5, 0.5, 0.5)}, "order_shares = .*of sum 1"),
        ({"orders": (2, 1, 4)}, "orders = .*ascending"),
        ({"orders": ()}, "orders = "),
        ({"base_rate": 1.0}, r"base_rate = 1\.0"),
        ({"values_per_field": 1}, "values_per_field = 1"),
        ({"structure": "tree"}, "structure = 'tree'"),
        ({"logit_deviation": 0.0}, "logit_deviation"),
        ({"seed": -1}, "seed = -1"),
        ({"test_rows": -5}, "test_rows = -5"),
        ({"groups": 1}, r"groups = 1: must be 0, or 2 to half of fields = 6"),
        ({"groups": 4}, r"groups = 4: must be 0, or 2 to half of fields = 6"),
        ({"groups": 2, "orders": (1,), "order_shares": (1.0,)}, "groups = 2: must be 0 where order 1"),
        ({"group_share": 0.5}, r"group_share = 0\.5: must be 1 without groups"),
        ({"groups": 2, "group_share": 1.5}, r"group_share = 1\.5"),
        ({"groups": 2, "group_share": 0.0}, r"group_share = 0\.0"),
    ],
)
def test_impossible_configs_are_refused_by_name(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(SMALL, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"orders": (1, 2, 7)}, "orders = 7: needs 7 fields, there are 6"),
        ({"groups": 2}, "groups = 2: the smallest has 3 fields, order 4 needs 4"),
        (
            {"structure": "field_aware", "values_per_field": 10**5, "latent_width": 128, "interactions": 15},
            "interactions = 15: .*the limit",
        ),
    ],
)
def test_impossible_structures_are_refused_by_name(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        PlantedClicks(dataclasses.replace(SMALL, **change))
