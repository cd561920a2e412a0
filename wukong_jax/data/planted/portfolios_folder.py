"""A prepared data directory of planted portfolios, with the Bayes metrics of each and the conversions of each split."""

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
    """Writes `schema.json`, `blocks/`, `vocabulary/` (empty: ids are numbers), `report.json` and conversion logs.

    Labels are final: conversions within the longest window. `conversions.npz` has those of the training rows, and
    `conversions-validation.npz`, `conversions-test.npz` those of the others, by row number within the split; they are
    there where an objective is delayed. It is all written aside and renamed, so a directory of that name is a whole
    one. The labels and logits of the validation and test splits are held in memory for their Bayes metrics.

    Args:
      config: what to plant.
      directory: must not exist.
      sample_rows: of the Monte Carlo sample of the "expected" Bayes metrics.

    Returns:
      The report: as of prepared raw files, and "config", "biases" of each portfolio, "correlations" of the portfolios'
      true logits, "useless" columns, "ids" of users and items, "delays" of the training rows, and under "bayes" the
      metrics of "expected" (of the distribution), "validation" and "test" (of their rows), named as a run's metrics.

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
        (aside / "schema.json").write_text(schema_to_json(schema))
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
        (aside / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    return report


def compute_expected_bayes(planted: PlantedPortfolios, rows: int) -> dict[str, float]:
    """The Bayes metrics of the planted distribution over the whole time, by Monte Carlo, without labels' noise.

    Args:
      planted: the generator.
      rows: of the sample; each portfolio is judged on all of them, an objective over all domains on its domains'.

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
    """The metrics of the true probabilities on given rows and their labels.

    Args:
      config: names the portfolios.
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
    """Names metrics as a run's are: `log_loss`, `<objective>/log_loss`, `<domain>/<objective>/log_loss`.

    Without a prefix it is the mean over the objectives (with one objective, all of its metrics). A slice that defines
    none, for want of rows or of a class, is left out.

    Args:
      config: names the domains and objectives.
      compute_slice: (domain or None for all, objective) -> metrics of those rows.
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
    """Writes one split: (its conversions, the delay of each in seconds, Bayes metrics; of training rows none)."""
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
    """Conversions of each delayed objective, their median delay, and the shares within an hour and a day."""
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
