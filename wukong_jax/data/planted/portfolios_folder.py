"""Writes planted portfolios as a prepared data directory, with Bayes metrics and the conversion log of each split."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from wukong_jax.data.blocks.conversion_log import ConversionLog, build_conversion_log, save_conversion_log
from wukong_jax.data.blocks.preparation_report import RowStatistics
from wukong_jax.data.blocks.row_blocks import SPLITS, BlockWriter
from wukong_jax.data.planted.bayes_metrics import BayesMetrics, compute_bayes_metrics, compute_expected_metrics
from wukong_jax.data.planted.portfolios import PlantedPortfolios
from wukong_jax.data.planted.portfolios_config import PlantedPortfoliosConfig
from wukong_jax.errors import UserError
from wukong_jax.files.whole_folder import write_whole_folder
from wukong_jax.schema import schema_to_json
from wukong_jax.strict_mapping import to_mapping

CONVERSION_FILES = {
    "train": "conversions.npz",
    "validation": "conversions-validation.npz",
    "test": "conversions-test.npz",
}
_AVERAGED = ("log_loss", "auc", "normalized_entropy")
_REPORTED_WINDOWS = (1, 24)  # hours


def write_planted_portfolios(
    config: PlantedPortfoliosConfig, directory: str | Path, *, sample_rows: int = 1 << 18
) -> dict[str, Any]:
    """Writes `schema.json`, `blocks/`, `report.json`, an empty `vocabulary/` and the conversion logs.

    Labels are final: they count conversions within the longest window. If an objective is delayed, the conversions of
    the training rows are in `conversions.npz`, and those of the other splits in `conversions-validation.npz` and
    `conversions-test.npz`, by row number within the split. The directory is written under another name and renamed
    when complete. The labels and logits of the validation and test splits are held in memory for their Bayes metrics.

    Args:
      config: configuration of the generator.
      directory: the directory to create; it must not exist.
      sample_rows: size of the Monte Carlo sample for the "expected" Bayes metrics.

    Returns:
      The report: the entries for prepared raw files, and "config", "biases" of each portfolio, "correlations" of the
      portfolios' true logits, "useless" columns, "ids" of users and items, "delays" of the training rows, and "bayes".
      "bayes" has the metrics of "expected" (of the distribution), "validation" and "test" (of their rows), with the
      same names as a run's metrics.

    Raises:
      UserError: the directory exists or cannot be written, or the structure is impossible.
    """
    directory = Path(directory)
    if sample_rows < 1:
        raise UserError(f"sample_rows = {sample_rows}: must be at least 1")
    with write_whole_folder(directory) as aside:
        planted = PlantedPortfolios(config)
        schema = planted.schema()
        (aside / "vocabulary").mkdir()
        (aside / "schema.json").write_text(schema_to_json(schema), encoding="utf-8")
        statistics = RowStatistics(schema)
        described = _describe_structure(planted)
        bayes = {"expected": compute_expected_bayes(planted, sample_rows)}
        for split in SPLITS:
            log, delays, metrics = _write_split(planted, split, aside, statistics)
            if metrics:
                bayes[split] = metrics
            if planted.delayed:
                save_conversion_log(log, aside / CONVERSION_FILES[split])
            if split == "train":
                described["delays"] = _describe_delays(planted, log, delays)
        report = statistics.report(schema, {}) | described | {"bayes": bayes}
        (aside / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def compute_expected_bayes(planted: PlantedPortfolios, rows: int) -> dict[str, float]:
    """Estimates the Bayes metrics of the planted distribution over the whole time by Monte Carlo, without label noise.

    Args:
      planted: the generator.
      rows: size of the sample. The metrics of a portfolio use all rows; those of an objective over all domains use the
        rows of the domains where it is observed.

    Returns:
      Metrics by name, see `name_bayes_metrics`.
    """
    config = planted.config
    logits, domains = planted.sample_logits(rows)

    def compute_slice(domain: int | None, objective: int) -> BayesMetrics | None:
        if domain is not None:
            observed = config.is_observed(domain, objective)
            return compute_expected_metrics(logits[domain, :, objective]) if observed else None
        seen = [g for g in range(config.domains) if config.is_observed(g, objective)]
        kept = np.flatnonzero(np.isin(domains, seen))
        return compute_expected_metrics(logits[domains[kept], kept, objective]) if len(kept) else None

    return name_bayes_metrics(config, compute_slice)


def compute_realised_bayes(
    config: PlantedPortfoliosConfig, logit: np.ndarray, labels: np.ndarray, label_mask: np.ndarray, domain: np.ndarray
) -> dict[str, float]:
    """Computes the metrics of the true probabilities on the given rows and labels.

    Args:
      config: configuration of the generator.
      logit: [B, O] true logits.
      labels: [B, O] 0 or 1.
      label_mask: [B, O] 1 = observed.
      domain: [B] int32.

    Returns:
      Metrics by name, see `name_bayes_metrics`.
    """

    def compute_slice(g: int | None, objective: int) -> BayesMetrics | None:
        kept = label_mask[:, objective] > 0
        if g is not None:
            kept &= domain == g
        own = labels[kept, objective]
        return compute_bayes_metrics(logit[kept, objective], own) if len(np.unique(own)) == 2 else None

    return name_bayes_metrics(config, compute_slice)


def name_bayes_metrics(
    config: PlantedPortfoliosConfig, compute_slice: Callable[[int | None, int], BayesMetrics | None]
) -> dict[str, float]:
    """Names metrics like those of a run: `log_loss`, `<objective>/log_loss`, `<domain>/<objective>/log_loss`.

    Metrics without a prefix are means over the objectives; with one objective, they are all of its metrics. Portfolios
    whose metrics are undefined, because rows or a class are missing, are left out.

    Args:
      config: configuration of the generator.
      compute_slice: function of (domain, or None for all; objective) that returns the metrics of those rows.
    """
    names = config.objectives
    slices: dict[str, BayesMetrics | None] = {name: compute_slice(None, o) for o, name in enumerate(names)}
    defined = [metrics for metrics in slices.values() if metrics is not None]
    if not defined:
        return {}
    named = {key: float(np.mean([getattr(metrics, key) for metrics in defined])) for key in _AVERAGED}
    if len(names) == 1:
        named, slices = to_mapping(defined[0]), {}
    if config.domains > 1:
        for g, domain in enumerate(config.domain_names):
            slices |= {f"{domain}/{name}": compute_slice(g, o) for o, name in enumerate(names)}
    for prefix, metrics in slices.items():
        if metrics is not None:
            named |= {f"{prefix}/{key}": value for key, value in to_mapping(metrics).items()}
    return named


def _write_split(
    planted: PlantedPortfolios, split: str, directory: Path, statistics: RowStatistics
) -> tuple[ConversionLog, np.ndarray, dict[str, float]]:
    """Writes one split; returns its conversions, their delays in seconds, and Bayes metrics (empty for training)."""
    judged: list[tuple[np.ndarray, ...]] = []
    conversions = [np.zeros((4, 0), np.int64)]  # impression, objective, second, delay
    with BlockWriter(directory, split, planted.schema()) as writer:
        for columns, logit, converted in planted.iterate_split(split):
            row, objective = np.nonzero(converted >= 0)
            second = converted[row, objective]
            delay = second - columns["timestamp"][row]
            conversions.append(np.stack([writer.rows + row, objective, second, delay]))
            writer.append(columns)
            statistics.add(SPLITS.index(split), columns)
            if split != "train":
                judged.append((logit, columns["labels"], columns["label_mask"], columns["domain"]))
    impression, objective, second, delay = np.concatenate(conversions, axis=1)
    log = build_conversion_log(impression, objective, second)
    metrics = compute_realised_bayes(planted.config, *map(np.concatenate, zip(*judged, strict=True))) if judged else {}
    return log, delay[np.lexsort((objective, impression, second))], metrics


def _describe_structure(planted: PlantedPortfolios) -> dict[str, Any]:
    config = planted.config
    portfolios = [f"{domain}/{name}" for domain in config.domain_names for name in config.objectives]
    probabilities = planted.sampler.probabilities
    return {
        "config": to_mapping(config),
        "biases": dict(zip(portfolios, planted.biases.ravel().tolist(), strict=True)),
        "portfolios": portfolios,
        "correlations": planted.logits.correlations.round(12).tolist(),
        "useless": planted.list_useless(),
        "ids": {
            name: {
                "rows": ids.rows,
                "of_a_domain": ids.ids[0].size,
                "shared": ids.shared,
                "shared_row_share": ids.shared_row_share(probabilities),
            }
            for name, ids in (("user", planted.users), ("item", planted.items))
        },
    }


def _describe_delays(planted: PlantedPortfolios, log: ConversionLog, delays: np.ndarray) -> dict[str, Any]:
    """Returns each delayed objective's number of conversions, median delay, and shares within an hour and a day."""
    described = {}
    for objective in planted.delayed:
        hours = delays[log.objective == objective] / 3600
        described[planted.config.objectives[objective]] = {
            "conversions": len(hours),
            "median_hours": float(np.median(hours)) if len(hours) else None,
            "share_within_hours": {
                str(window): float((hours <= window).mean()) if len(hours) else None for window in _REPORTED_WINDOWS
            },
        }
    return described
