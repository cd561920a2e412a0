"""Measures what docs/results/several_processes keeps: how equal runs are, how faults end them, and who reads what.

    python -m tests.multi_process.measure --part=equality --workdir=runs/several_processes
    python -m tests.multi_process.measure --part=faults --workdir=runs/several_processes
    python -m tests.multi_process.measure --part=reading --workdir=runs/several_processes
    python -m tests.multi_process.measure --part=report --workdir=runs/several_processes

Each row is appended to WORKDIR/PART.jsonl when it is measured, and not measured again by a later start; `report` writes
results.json of them, and of what `measure_checkpoint` printed, if that was put into WORKDIR/checkpoint.jsonl.
"""

import argparse
import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.data.blocks.test_lanes import CountedRows
from tests.data.blocks.test_loader import SCHEMA
from tests.multi_process.faults import MADE
from tests.multi_process.processes import CONFIG, LIMIT, STALL_SECONDS, Member, launch, start_team, wait_for_end
from tests.repository import ROOT
from wukong_jax.data.blocks.loader import Position, iterate_batches

STEPS = 12
BLOCKS, BLOCK_ROWS = 196, 1024
SHAPES = {"2x2": (2, 2), "4x1": (4, 1), "1x4": (1, 4), "1x1": (1, 1), "2x1": (2, 1)}  # processes x devices of each
EQUAL = [
    *[("placements", shape) for shape in ("1x4", "2x2", "4x1", "2x1")],
    *[(choice, shape) for choice in ("reversed", "bfloat16", "lattice") for shape in ("2x2", "4x1")],
    *[("towers", shape) for shape in ("2x2", "4x1")],
    *[(choice, "2x2") for choice in ("compressed", "fsdp")],
]

STAGES = {
    "data preparation": "preparing",
    "restoring": "restoring",
    "training": "training step 5",
    "evaluation": "evaluating batch 2",
    "saving": "saving step 4",
}
FAULTS = [
    ("damaged blocks", 1, "restoring"),
    *[("kill", 0, stage) for stage in STAGES],
    *[("stuck", 1, stage) for stage in STAGES],
    *[("full disk", process, "saving") for process in (0, 1)],
    *[("stop", 0, "training"), ("stop", 1, "evaluation"), ("kill", 1, "training"), ("stuck", 0, "training")],
    *[("error", 1, stage) for stage in ("training", "restoring")],
]
CONTINUED = (
    (2, 1),
    (1, 1),
    (4, 1),
)  # shapes in which runs go on after faults that come while they save or train, in turns


def train(workdir: Path, choice: str, shape: tuple[int, int], steps: int = STEPS) -> dict[str, Any]:
    words = (f"--config={CONFIG}:{choice}", f"--workdir={workdir}", f"--config.training.steps={steps}")
    if choice in ("towers", "compressed"):
        words += (f"--config.mesh.hosts={1 if shape == (1, 1) else 2}",)
    began = time.monotonic()
    done = launch(*shape, "train", *words)
    if done.returncode:
        raise RuntimeError(done.stderr)
    summary = json.loads((workdir / "summary.json").read_text(encoding="utf-8"))
    return summary | {"seconds": time.monotonic() - began}


def find_auc(summary: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in summary["test"].items() if name.rpartition("/")[2] == "auc"}


def compare(summary: dict[str, Any], alone: dict[str, Any]) -> float:
    """Returns the largest difference of a test AUC, over domains and objectives."""
    mine, theirs = find_auc(summary), find_auc(alone)
    if mine.keys() != theirs.keys() or not mine:
        raise RuntimeError(f"{sorted(mine)} and {sorted(theirs)}")
    return max(abs(mine[name] - theirs[name]) for name in mine)


def train_once(workdir: Path, choice: str, shape: str) -> dict[str, Any]:
    folder = workdir / "runs" / f"{choice}_{shape}"
    stored = folder / "measured.json"
    if not stored.exists():
        shutil.rmtree(folder, ignore_errors=True)
        stored.parent.mkdir(parents=True)
        stored.write_text(json.dumps(train(folder, choice, SHAPES[shape])), encoding="utf-8")
    return json.loads(stored.read_text(encoding="utf-8"))


def measure_equality(workdir: Path) -> Iterator[dict[str, Any]]:
    for choice, shape in EQUAL:
        # stochastic rounding draws other numbers on another mesh, so that only the same one is the same run
        other = "1x4" if choice == "bfloat16" else "1x1"
        row = {"part": "equality", "run": choice, "processes x devices": shape, "against": other}
        if is_new(workdir, row):
            alone = train_once(workdir, "placements" if choice in ("reversed", "fsdp") else choice, other)
            summary = train_once(workdir, choice, shape)
            yield row | {
                "largest_auc_difference": compare(summary, alone),
                "log_loss_difference": abs(summary["test"]["log_loss"] - alone["test"]["log_loss"]),
                "steps": summary["step"],
            }


def measure_faults(workdir: Path) -> Iterator[dict[str, Any]]:
    alone = train_once(workdir, "placements", "1x1")
    for number, (kind, process, stage) in enumerate(FAULTS):
        row = {"part": "faults", "fault": kind, "process": process, "stage": stage}
        if is_new(workdir, row):
            folder = workdir / "runs" / f"fault_{kind}_{process}_{stage}".replace(" ", "_")
            shutil.rmtree(folder, ignore_errors=True)
            if stage == "restoring":
                train(folder, "placements", (2, 1), STEPS // 2)
            measured = run_fault(folder, f"{kind}:{process}:{STAGES[stage]}", process, kind == "stop")
            if stage in ("training", "saving"):
                shape = CONTINUED[number % len(CONTINUED)]
                went_on = train(folder, "placements", shape)
                measured["went_on_with_processes"] = shape[0]
                measured["then_largest_auc_difference"] = compare(went_on, alone)
            yield row | measured


def measure_reading(workdir: Path) -> Iterator[dict[str, Any]]:
    """Counts the blocks that processes read of a shuffled epoch and of a split that is evaluated."""
    for use, lanes, processes in [
        *[("training", 1, count) for count in (1, 4, 64)],
        *[("training", 64, count) for count in (1, 2, 4, 16, 64)],
        *[("evaluation", count, count) for count in (4, 64)],
    ]:
        row = {"part": "reading", "use": use, "lanes": lanes, "processes": processes, "blocks": BLOCKS}
        if is_new(workdir, row):
            reads = [count_blocks(use, lanes, processes, index) for index in range(processes)]
            yield row | {"read_by_all": sum(reads), "read_by_the_busiest": max(reads)}


def count_blocks(use: str, lanes: int, processes: int, index: int) -> int:
    """Returns how many blocks a process reads of an epoch of `BLOCKS` blocks, the last of which is short."""
    source = CountedRows(BLOCKS * BLOCK_ROWS - 7, BLOCK_ROWS)
    batch = 8 * BLOCK_ROWS
    own = np.arange(batch).reshape(processes, -1)[index]
    for _ in iterate_batches(
        source,
        SCHEMA,
        batch,
        position=Position(0, 0, 0),
        shuffle=use == "training",
        epochs=1,
        own_rows=own,
        window_rows=16 * BLOCK_ROWS,  # as 131,072 rows of blocks of 8,192
        lanes=lanes,
    ):
        pass
    return int(source.read_counts.sum())


def run_fault(folder: Path, fault: str, process: int, stays: bool) -> dict[str, Any]:
    """Makes a fault in a run of two processes; returns how the others ended, and how many seconds after it."""
    with start_team(folder, range(2), 2, f"--config.training.steps={STEPS}", fault=fault) as team:
        faulty, others = team[process], [team[1 - process]] if stays else team
        made = wait_for_fault(faulty)
        codes = wait_for_end(others, 3 * STALL_SECONDS)
        line = next(iter(team[1 - process].errors), "")
        return {
            "seconds_to_end": round(time.time() - made, 1),
            "ended": None not in codes,
            "exit_code": team[1 - process].code,
            "error_lines": len(team[1 - process].errors),
            "line": re.sub(r" on \S+ ", " on HOST ", line).replace(str(ROOT), "."),
        }


def wait_for_fault(member: Member) -> float:
    stop = time.monotonic() + LIMIT
    while not (found := re.search(f"{MADE}([0-9.]+)", member.err)):
        if time.monotonic() > stop:
            raise RuntimeError(member.err)
        time.sleep(0.02)
    return float(found[1])


def read_rows(workdir: Path, part: str) -> list[dict[str, Any]]:
    file = workdir / f"{part}.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def is_new(workdir: Path, row: dict[str, Any]) -> bool:
    return not any(row.items() <= measured.items() for measured in read_rows(workdir, row["part"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("equality", "faults", "reading", "report"), required=True)
    parser.add_argument("--workdir", type=Path, required=True)
    flags = parser.parse_args()
    if flags.part == "report":
        from wukong_jax.reports.kept_results import write_results

        command = "python -m tests.multi_process.measure --part=PART --workdir=runs/several_processes"
        rows = [
            row for part in ("equality", "faults", "reading", "checkpoint") for row in read_rows(flags.workdir, part)
        ]
        print(write_results(ROOT / "docs" / "results" / "several_processes", command, rows))
        return
    flags.workdir.mkdir(parents=True, exist_ok=True)
    measure = {"equality": measure_equality, "faults": measure_faults, "reading": measure_reading}[flags.part]
    for row in measure(flags.workdir.absolute()):
        with (flags.workdir / f"{flags.part}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
