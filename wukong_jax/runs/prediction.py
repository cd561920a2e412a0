"""Probabilities for the rows of a raw file, in input order."""

from pathlib import Path

import numpy as np
from scipy.special import expit

from wukong_jax.data.blocks.loader import batch_rows
from wukong_jax.data.raw.prepare import read_encoded_rows
from wukong_jax.errors import UserError
from wukong_jax.runs.evaluation import predict_batches
from wukong_jax.runs.finish import build_predict
from wukong_jax.runs.open_run import OpenRun


def predict_file(opened: OpenRun, source: Path, target: Path) -> int:
    """Scores every row of a raw file.

    Args:
      opened: the run.
      source: a raw file of the run's schema; labels may be missing.
      target: CSV to write: a header of objectives' names, then one probability per objective and row, with
        enough digits to give the same float64 back.

    Returns:
      The rows written.

    Raises:
      UserError: the input is malformed, or the output cannot be written.
    """
    run = opened.run
    encoded = read_encoded_rows(run.schema, opened.data.vocabulary, source, labels_required=False)
    # Every row is scored, whatever its weight; only padding has weight 0 from here on.
    join = opened.data.join
    joined = encoded if join is None else ({**columns, **join(columns)} for columns in encoded)
    chunks = ({**columns, "weight": np.ones_like(columns["weight"])} for columns in joined)
    batches = batch_rows(chunks, run.schema, run.config.training.evaluation_batch_size)
    aside = target.with_name(target.name + ".writing")
    written = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("w") as file:
            file.write(",".join(label.name for label in run.schema.labels) + "\n")
            for batch, logits in predict_batches(build_predict(run, opened.state), batches, run.mesh):
                probabilities = expit(np.asarray(logits, np.float64)[batch.weight > 0])
                file.writelines(",".join(map(repr, row)) + "\n" for row in probabilities.tolist())
                written += len(probabilities)
        aside.replace(target)
    except OSError as error:
        raise UserError(f"--output = {target}: {error.strerror}; give a file that can be written") from None
    finally:
        aside.unlink(missing_ok=True)
    return written
