"""Writes the predicted probabilities for the rows of a raw file to a CSV file, in input order."""

import os
from pathlib import Path

from wukong_jax.errors import UserError
from wukong_jax.files.csv_text import quote_csv
from wukong_jax.files.whole_files import open_whole, whole_file_aside
from wukong_jax.runs.open_run import OpenRun
from wukong_jax.sharding.team import find_team


def predict_file(opened: OpenRun, source: Path, target: Path, data_set: str = "") -> int:
    """Predicts every row of a raw file.

    Args:
      opened: the run.
      source: a raw file with the run's schema; labels are optional. Process 0 reads it.
      target: CSV file to write, by process 0 where several predict together: a header with the objectives' names, then
        one line per row with a probability per objective, with enough digits to restore the same float64.
      data_set: see `OpenRun.predict`.

    Returns:
      The number of rows written.

    Raises:
      UserError: the input is missing or malformed, or the output is the input or cannot be written.
    """
    if not find_team().is_lead:  # which needs no input: process 0 sends it
        return sum(map(len, opened.predict_parts(source, data_set)))
    _check_files(source, target)
    written = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open_whole(target) as file:
            file.write(",".join(quote_csv(label.name) for label in opened.schema.labels) + "\n")
            for scores in opened.predict_parts(source, data_set):
                file.writelines(",".join(map(repr, row)) + "\n" for row in scores.tolist())
                written += len(scores)
    except OSError as error:
        raise UserError(f"--output = {target}: {error.strerror}; give a writable file") from None
    return written


def _check_files(source: Path, target: Path) -> None:
    """Refuses a missing input, and an output that is the input, also by a link or under its temporary name."""
    if source.is_dir() or not source.exists():
        found = "a folder" if source.is_dir() else "no such file"
        raise UserError(f"--input = {source}: {found}; give a raw file in the format of the training files")
    for written in (target, whole_file_aside(target)):
        if written.exists() and os.path.samefile(source, written):
            raise UserError(f"--output = {target}: would overwrite the --input {source}; give another file")
