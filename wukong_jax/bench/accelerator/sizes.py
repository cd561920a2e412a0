"""Defines what is measured at each size.

Imports nothing of JAX, so that the process that starts the stages stays away from the devices and starts at once.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

SizeName = Literal["full", "tiny"]
Row = dict[str, Any]
Cases = dict[str, Callable[[], Row]]  # measurements by name; each returns a flat row


@dataclasses.dataclass(frozen=True)
class StepCase:
    """A Wukong and its batch. Every case has 13 dense and 26 categorical columns."""

    layers: int
    tokens: int  # n_F and n_L
    rank: int  # K
    hidden: int  # width of the two hidden layers of the FM's MLP
    width: int  # D
    batch: int  # B
    rows: int = 1_000_000  # of all tables together


@dataclasses.dataclass(frozen=True)
class BagSetting:
    """Bags of ids over tables of equal size, with a fixed number of distinct ids."""

    tables: int
    batch: int  # B
    length: int  # ids of a bag
    distinct: int  # distinct ids of all tables together
    rows: int  # of all tables together
    width: int  # D

    @property
    def lookups(self) -> int:
        """M, the number of ids of a batch."""
        return self.tables * self.batch * self.length


@dataclasses.dataclass(frozen=True)
class Size:
    """Everything that depends on the size."""

    steps: Mapping[str, StepCase]
    memory_step: str  # name of the step whose memory is compared
    loop_step: str  # name of the step of the train loop
    loop_rows: int  # rows of the blocks that the loop reads
    loop_steps: int  # timed steps of the loop
    reader_threads: tuple[int, ...]  # the loop's threads, a case each
    bags: BagSetting
    products: tuple[int, ...]  # sizes of square matrices; the fastest counts
    rounds: int  # repetitions, of which the median counts
    calls: int  # dispatched one after the other in a repetition
    check_batch: int  # B of the comparison with the CPU
    checks: tuple[str, ...]  # its cases; empty: all
    tests: tuple[str, ...]  # test files or folders
    patience: int  # factor on the stages' limits


# The models are those of `bench_train_step --peer`; the batches are larger, as an accelerator's are.
SIZES: Mapping[SizeName, Size] = {
    "full": Size(
        steps={
            "s": StepCase(layers=2, tokens=8, rank=8, hidden=256, width=16, batch=32768),
            "m": StepCase(layers=3, tokens=16, rank=16, hidden=256, width=32, batch=32768),
            "l": StepCase(layers=4, tokens=32, rank=32, hidden=512, width=64, batch=16384),
        },
        memory_step="m",
        loop_step="m",
        loop_rows=1_000_000,
        loop_steps=100,
        reader_threads=(2, 8),
        bags=BagSetting(tables=16, batch=2048, length=32, distinct=350_000, rows=10_000_000, width=128),
        products=(4096, 8192),
        rounds=5,
        calls=10,
        check_batch=1024,
        checks=(),
        tests=(
            "tests/embeddings/test_merge_rows.py",
            "tests/embeddings/test_sum_runs.py",
            "tests/embeddings/test_sparse_update.py",
            "tests/embeddings/test_bfloat16_rounding.py",
            "tests/metrics/test_metric_sums.py",
            "tests/layers/test_mlp.py",
            "tests/layers/test_norms.py",
        ),
        patience=1,
    ),
    "tiny": Size(
        steps={
            "s": StepCase(layers=1, tokens=4, rank=4, hidden=16, width=8, batch=64, rows=2600),
        },
        memory_step="s",
        loop_step="s",
        loop_rows=512,
        loop_steps=8,
        reader_threads=(2,),
        bags=BagSetting(tables=2, batch=16, length=4, distinct=50, rows=400, width=8),
        products=(128,),
        rounds=2,
        calls=2,
        check_batch=32,
        checks=("dlrm sgd", "dlrm bfloat16"),
        tests=("tests/layers/test_norms.py",),
        patience=6,  # of a machine with two cores that may be busy
    ),
}
