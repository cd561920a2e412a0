"""Times an artefact's scores on one core: encoded rows, raw rows, and the same model in onnxruntime.

The model is that of `bench_train_step`: Wukong with two layers of 16 + 16 tokens of width 16, 13 dense columns, and 26
hashed ones with 1.3 million rows. All paths take turns, so that other load of the machine affects them equally.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from wukong_jax.bench.random_blocks import write_random_blocks
from wukong_jax.bench.train_step import COLUMNS, build_bench_run
from wukong_jax.config import RunConfig
from wukong_jax.runs.open_run import OpenRun
from wukong_jax.runs.rows import open_prepared_rows
from wukong_jax.schema import Source
from wukong_jax.serving.artefact import TableDtype
from wukong_jax.serving.export import export_run
from wukong_jax.serving.scorer import Scorer, load_scorer
from wukong_jax.training.run import Run, build_run

SIZES = (1, 64, 1024)
TABLE_ROWS = 1_300_000
_SECONDS = 0.25  # a path is timed for about as long in a turn, at each size
_FEWEST, _MOST = 5, 200  # calls of a turn

Path_ = Callable[[int], np.ndarray]  # number of rows -> their scores or logits


@dataclasses.dataclass
class TimedPath:
    """A way to score, with the seconds of its calls by number of rows."""

    name: str
    call: Path_
    seconds: dict[int, list[float]] = dataclasses.field(default_factory=dict)

    def take_turn(self, rows: int) -> None:
        """Times calls with some rows; two before them are not counted."""
        for _ in range(2):
            started = time.perf_counter()
            self.call(rows)
            once = time.perf_counter() - started
        for _ in range(int(np.clip(_SECONDS / once, _FEWEST, _MOST))):
            started = time.perf_counter()
            self.call(rows)
            self.seconds.setdefault(rows, []).append(time.perf_counter() - started)


def build_served_run() -> Run:
    """Builds the model, with hashed columns of a text file as Criteo's."""
    run = build_bench_run(TABLE_ROWS, 1024, "rowwise_adagrad")
    hashed = tuple(dataclasses.replace(column, encoding="hash") for column in run.schema.categorical)
    schema = dataclasses.replace(run.schema, source=Source("csv"), categorical=hashed)
    return build_run(run.config, schema, devices=jax.devices()[:1])


def open_in_memory(folder: Path, run: Run) -> OpenRun:
    """Opens an untrained state of a run over random rows."""
    write_random_blocks(folder, run, {"train": 4096})
    config: RunConfig = run.config
    return OpenRun(run, open_prepared_rows(config.data, folder, lambda text: None), run.init_state())


def draw_raw_rows(rows: int) -> list[dict[str, Any]]:
    """Draws rows as a server gets them: numbers, and texts of 8 hexadecimal digits."""
    random = np.random.default_rng(1)
    numbers = random.integers(0, 1000, (rows, 13)).tolist()
    texts = random.integers(0, 2**32, (rows, COLUMNS)).tolist()
    return [
        {f"d{i}": number for i, number in enumerate(own)} | {f"c{i}": f"{value:08x}" for i, value in enumerate(words)}
        for own, words in zip(numbers, texts, strict=True)
    ]


def measure_serving(folder: Path, rounds: int, tables: Sequence[TableDtype], onnx: bool) -> list[dict[str, Any]]:
    """Exports the model, loads it in several ways, and times them in turns.

    Args:
      folder: an empty folder.
      rounds: turns of each path and size.
      tables: how tables are stored.
      onnx: whether to time onnxruntime, too.

    Returns:
      A row for each path and size: milliseconds of a call (median and 99th percentile), and the largest difference
      between its logits and those of the run in the same batch.
    """
    run = build_served_run()
    opened = open_in_memory(folder / "rows", run)
    encoded = _draw_encoded(run)
    expected = {
        rows: np.asarray(run.predict_step(opened.state.params, opened.state.statistics, opened.state.tables, batch))
        for rows, batch in encoded.items()
    }
    paths: list[TimedPath] = []
    for dtype in tables:
        export_run(opened, folder / dtype, tables=dtype, platforms=["cpu"], say=lambda text: None)
        scorer = load_scorer(folder / dtype, SIZES)
        paths.append(TimedPath(f"artefact, {dtype} tables, encoded rows", _score_encoded(scorer, encoded)))
        if dtype == "float32":
            paths.append(TimedPath("artefact, float32 tables, raw rows", _score_raw(scorer)))
            paths.append(TimedPath("encoding of raw rows alone", _encode_raw(scorer)))
    if onnx:
        paths.append(TimedPath("onnxruntime, encoded rows", _run_onnx(folder / "onnx", opened, encoded)))
    for _ in range(rounds):
        for rows in SIZES:
            for path in paths:
                path.take_turn(rows)
    return [_describe(path, rows, expected[rows]) for path in paths for rows in SIZES]


def _draw_encoded(run: Run) -> dict[int, Any]:
    from wukong_jax.bench.train_step import draw_batch

    batch = draw_batch(run, max(SIZES))._replace(timestamp=None, group=None)
    return {rows: jax.tree.map(lambda array, rows=rows: array[:rows], batch) for rows in SIZES}


def _score_encoded(scorer: Scorer, encoded: Mapping[int, Any]) -> Path_:
    def score(rows: int) -> np.ndarray:
        batch = encoded[rows]
        return scorer.compute_logits(batch.ids, batch.dense, batch.domain)

    return score


def _score_raw(scorer: Scorer) -> Path_:
    drawn = draw_raw_rows(max(SIZES))
    return lambda rows: scorer.score(drawn[:rows])


def _encode_raw(scorer: Scorer) -> Path_:
    drawn = draw_raw_rows(max(SIZES))
    return lambda rows: scorer.encode(drawn[:rows])["ids"]


def _run_onnx(folder: Path, opened: OpenRun, encoded: Mapping[int, Any]) -> Path_:
    import onnxruntime

    from wukong_jax.serving.onnx_file import export_onnx

    export_onnx(opened, folder, say=lambda text: None)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def score(rows: int) -> np.ndarray:
        batch = encoded[rows]
        return session.run(None, {name: getattr(batch, name) for name in names})[0]

    return score


def _describe(path: TimedPath, rows: int, expected: np.ndarray) -> dict[str, Any]:
    seconds = np.array(path.seconds[rows])
    found = path.call(rows)
    same = found.shape == expected.shape and "raw" not in path.name
    return {
        "path": path.name,
        "rows": rows,
        "p50_ms": round(float(np.median(seconds)) * 1e3, 4),
        "p99_ms": round(float(np.quantile(seconds, 0.99)) * 1e3, 4),
        "calls": len(seconds),
        "largest_difference": float(np.abs(found - expected).max()) if same else None,
    }


def describe_memory(folder: Path) -> dict[str, Any]:
    """Returns bytes of the tables' files, and of the process's own memory before and after their artefact is loaded."""
    before = _read_private_bytes()
    scorer = load_scorer(folder, (1,))
    after = _read_private_bytes()
    tables = sum(file.bytes for name, file in scorer.manifest.files.items() if name.startswith("tables/"))
    return {"tables_bytes": tables, "private_bytes_before": before, "private_bytes_after": after}


def _read_private_bytes() -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no line RssAnon")
