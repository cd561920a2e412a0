"""Loads the test metrics a run is compared with: the Bayes metrics of planted data, and those of another run."""

from pathlib import Path
from typing import Any

from wukong_jax.config import RunConfig
from wukong_jax.errors import UserError
from wukong_jax.files.object_store import refuse_store
from wukong_jax.runs.record import read_json_file
from wukong_jax.runs.rows import RunData

REFERENCE_METRICS = ("auc", "log_loss", "normalized_entropy")


def load_references(config: RunConfig, data: RunData) -> dict[str, Any]:
    """Loads the test metrics of each reference, by the reference's name.

    Raises:
      UserError: the reference run has no summary, or was tested on different rows.
    """
    references = {}
    bayes = data.report.get("bayes", {}).get("test")
    if bayes:
        references["bayes"] = {name: bayes[name] for name in REFERENCE_METRICS}
    if config.reference_run:
        other = read_reference(config)
        if "test" not in other or not data.matches(str(other.get("data_fingerprint"))):
            raise UserError(
                f"config.reference_run = {config.reference_run!r}: was not tested on this run's rows; "
                "give a run on the same data"
            )
        name = other["name"] if other["name"] != config.name else f"{other['name']} (reference)"
        references[name] = {metric: other["test"][metric] for metric in REFERENCE_METRICS}
    return references


def read_reference(config: RunConfig) -> dict[str, Any]:
    """Reads the summary of the reference run; empty if the config names none.

    Raises:
      UserError: the reference run has no summary.
    """
    if not config.reference_run:
        return {}
    refuse_store("config.reference_run", config.reference_run, "copy the run's summary.json to a local folder")
    summary: dict[str, Any] | None = read_json_file(Path(config.reference_run) / "summary.json", dict)
    if summary is None:
        raise UserError(
            f"config.reference_run = {config.reference_run!r}: holds no summary.json; finish that run first"
        )
    return summary
