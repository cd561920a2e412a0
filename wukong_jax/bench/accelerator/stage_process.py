"""The process of one stage: measures its cases and appends a row for each to a file.

python -m wukong_jax.bench.accelerator.stage_process MODULE SIZE FILE
"""

import gc
import importlib
import json
import sys
import time
from pathlib import Path

from wukong_jax.bench.accelerator.sizes import SIZES, Cases, Row
from wukong_jax.messages import describe_error


def measure_cases(cases: Cases, file: Path) -> None:
    """Measures cases; the row of one that raises has its error, and the next ones are measured all the same."""
    for name, measure in cases.items():
        start = time.monotonic()
        try:
            row: Row = measure()
        except Exception as error:
            row = {"error": describe_error(error)}
        gc.collect()  # frees the case's arrays before the next
        line = json.dumps({"case": name, **row, "case_seconds": round(time.monotonic() - start, 1)})
        with file.open("a", encoding="utf-8") as out:
            out.write(line + "\n")


def main(module: str, size: str, file: str) -> None:
    """Measures the cases of a stage's module."""
    measure_cases(importlib.import_module(module).list_cases(SIZES[size]), Path(file))  # type: ignore[index]


if __name__ == "__main__":
    main(*sys.argv[1:])
