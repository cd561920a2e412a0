"""Writes the report of a run: `report.html`, which opens offline, and its pictures as PNG files.

A report is written from the files in the run's folder only, and at any time, also while the run is training.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wukong_jax.files.whole_files import write_bytes_whole, write_text_whole
from wukong_jax.reports.period_pictures import PROGRESSIVE, draw_periods
from wukong_jax.reports.run_page import Picture, build_report_page
from wukong_jax.reports.run_pictures import draw_auc, draw_calibration, draw_loss
from wukong_jax.reports.theme import DARK, LIGHT
from wukong_jax.runs.record import load_run_record
from wukong_jax.training.loop import Listener, RunStart

_PICTURES = {
    "loss": (
        draw_loss,
        "Log loss over training; lower is better. Where training has two lines, the thin one is the mean over each "
        "logging interval and the thick one a moving mean of it.",
    ),
    "auc": (draw_auc, "AUC on validation rows over training; higher is better."),
    "periods": (
        draw_periods,
        "Rows of a period (an hour, a day, a file), scored with what was known before it. Calibration is the sum of "
        "the predicted over that of the observed rates; the last panel has the rows of the tables that hold a value.",
    ),
    "calibration": (
        draw_calibration,
        "Calibration on test rows. Each point is a bin of rows with similar predictions, all of about equal weight. "
        "Bars span two standard errors. On the diagonal, predicted and observed rates agree.",
    ),
}


def write_report(workdir: str | Path) -> Path:
    """Writes `report.html` and `pictures/*.png` to a run's folder.

    A picture without data (no validation, no test) is left out, with a note on the page.

    Args:
      workdir: the run's folder, with `config.json` and, if written already, `metrics.jsonl`, `summary.json` and
        `calibration.json`.

    Returns:
      The path of `report.html`.

    Raises:
      UserError: the folder holds no run, or a file has unexpected content.
    """
    workdir = Path(workdir)
    record = load_run_record(workdir)
    folder = workdir / "pictures"
    pictures = []
    is_log = bool(record.series(PROGRESSIVE, "trained_rows")[0])
    for name in ("loss", "periods") if is_log else ("loss", "auc", "calibration"):
        draw, caption = _PICTURES[name]
        light, dark = draw(record, LIGHT), draw(record, DARK)
        path = folder / f"{name}.png"
        if light is None or dark is None:
            path.unlink(missing_ok=True)  # delete the picture of an earlier report
        else:
            folder.mkdir(exist_ok=True)
            write_bytes_whole(path, light)
        pictures.append(Picture(name, caption, light, dark))
    page = workdir / "report.html"
    write_text_whole(page, build_report_page(record, pictures))
    return page


class ReportWriter(Listener):
    """Writes the report when a run has ended."""

    def __init__(self, say: Callable[[str], None]):
        """Stores `say`, which prints the path of the report."""
        self._say = say
        self._folder, self._place = Path(), ""

    def on_start(self, start: RunStart) -> None:
        """Stores the run's folder."""
        self._folder, self._place = start.folder, start.place or str(start.folder)

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """Writes the report."""
        self._say(f"report: {self._place}/{write_report(self._folder).name}")
