"""The report of a run: `report.html`, one file that opens offline, and its pictures as PNG files.

Reads what a run leaves in its folder and nothing else, at any time: a run under way gets a report of what
there is so far.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wukong_jax.errors import UserError
from wukong_jax.reports.run_page import Picture, build_report_page
from wukong_jax.reports.run_pictures import DARK, LIGHT, draw_auc, draw_calibration, draw_loss
from wukong_jax.runs.folder import write_text_whole
from wukong_jax.runs.record import RunRecord

_PICTURES = {
    "loss": (
        draw_loss,
        "Log loss over training; lower is better. Where training has two lines, the thin one is the mean over each "
        "logging interval and the thick one a moving mean of it.",
    ),
    "auc": (draw_auc, "AUC on validation rows over training; higher is better."),
    "calibration": (
        draw_calibration,
        "Calibration on test rows. Each point is a bin of rows with similar predictions, all of about equal weight. "
        "Bars span two standard errors. On the diagonal, predicted and observed rates agree.",
    ),
}


def write_report(workdir: Path) -> Path:
    """Writes `report.html` and `pictures/*.png` of a run into its folder.

    A picture without data yet (no validation, no test) is left out, and the page says so.

    Args:
      workdir: the run's folder, with `config.json` and, as far as the run came, `metrics.jsonl`, `summary.json`
        and `calibration.json`.

    Returns:
      The path of `report.html`.

    Raises:
      UserError: the folder holds no run, or one of its files is not what a run writes.
    """
    record = load_run_record(workdir)
    folder = workdir / "pictures"
    pictures = []
    for name, (draw, caption) in _PICTURES.items():
        light, dark = draw(record, LIGHT), draw(record, DARK)
        path = folder / f"{name}.png"
        if light is None or dark is None:
            path.unlink(missing_ok=True)  # of an earlier run of more steps
        else:
            folder.mkdir(exist_ok=True)
            path.write_bytes(light)
        pictures.append(Picture(name, caption, light, dark))
    page = workdir / "report.html"
    write_text_whole(page, build_report_page(record, pictures))
    return page


def load_run_record(workdir: Path) -> RunRecord:
    """Reads the files of a run that its report is made from.

    Raises:
      UserError: the folder holds no run, or one of its files is not what a run writes.
    """
    config = _load_json(workdir / "config.json", dict)
    if config is None:
        raise UserError(f"{workdir}: holds no run (no config.json); give the folder of a run")
    return RunRecord(
        config=config,
        lines=_load_metrics_lines(workdir / "metrics.jsonl"),
        summary=_load_json(workdir / "summary.json", dict),
        calibration=_load_json(workdir / "calibration.json", list) or [],
    )


def _load_json(path: Path, kind: type) -> Any:
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg}); delete it and run again") from None
    if not isinstance(value, kind):
        raise UserError(f"{path}: holds a {type(value).__name__}, expected a {kind.__name__}; delete it and run again")
    return value


def _load_metrics_lines(path: Path) -> list[Mapping[str, Any]]:
    if not path.exists():
        return []
    texts = path.read_text().split("\n")
    lines: list[Mapping[str, Any]] = []
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
            lines.append({**line, "step": int(line["step"]), "split": str(line["split"])})
        except (ValueError, KeyError, TypeError):
            if number == len(texts):
                break  # the run is writing this line now
            raise UserError(
                f"{path}, line {number} = {text[:60]!r}: not an object with step and split; delete the line"
            ) from None
    return lines
