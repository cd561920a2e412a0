"""Runs a teacher ahead of its students: trains it on a log chunk by chunk and writes what it makes of rows to a store.

    python scripts/run_teacher.py --config=F --workdir=W --store=DIR --keys=user,item [--chunks=8] [--config.KEY=value]

A student is an ordinary run whose config joins the store to its rows:
    config.data.join.factory = "lattice.teacher.knowledge_transfer:build_join"
    config.data.join.options = {"store": DIR, "time_to_live_hours": 6.0}
    config.model.options: teacher_tokens (features); config.loss: lattice.losses:build, distillation_weight (labels)
Prints the hit rate and the age of what such a student finds, and leaves them in DIR/hits.json.
"""

import json
import math
import sys
from pathlib import Path

from wukong_jax.cli.command_line import parse_config_dict_flags, run_script, take_flag
from wukong_jax.errors import UserError


def main() -> None:
    """Parses, replays, reports."""
    arguments = list(sys.argv)
    store, keys = take_flag(arguments, "store"), take_flag(arguments, "keys")
    chunks = take_flag(arguments, "chunks", "8")
    scored, kind = take_flag(arguments, "scored", "next"), take_flag(arguments, "key", "pair")
    hours = take_flag(arguments, "time_to_live_hours", "6")
    mapping, workdir = parse_config_dict_flags(arguments, __doc__ or "")
    from lattice.teacher.replay import ReplaySettings, find_chunk_ends, measure_hits, replay_teacher
    from wukong_jax.config import build_run_config
    from wukong_jax.files.whole_files import write_text_whole
    from wukong_jax.runs.folder import RunFolder
    from wukong_jax.runs.rows import open_run_data

    if kind not in ("pair", "impression"):
        raise UserError(f"--key = {kind!r}: 'pair' (the ids of --keys) or 'impression' (those and the second)")
    config = build_run_config(mapping)
    columns = tuple(filter(None, keys.split(",")))
    if not chunks.isdecimal():
        raise UserError(f"--chunks = {chunks!r}: expected a whole number of at least 2")
    settings = ReplaySettings(int(chunks), columns, kind == "impression", scored)  # type: ignore[arg-type]
    say = lambda text: print(text, flush=True)  # noqa: E731
    replay_teacher(config, workdir, store, settings, say)
    data = open_run_data(config.data, RunFolder(workdir).data, say)
    ends = find_chunk_ends(data.splits["train"].rows, config.training.batch_size, settings.chunks)
    hits = measure_hits(data, store, parse_number("time_to_live_hours", hours), ends)
    write_text_whole(Path(store) / "hits.json", json.dumps(hits, indent=1) + "\n")
    print("a student finds         rows  hit rate  mean age")
    for row in hits:
        age = "-" if row["mean_age_seconds"] is None else f"{row['mean_age_seconds'] / 3600:.2f} h"
        print(f"{row['rows']:18} {row['number']:>9,} {row['hit_rate']:>9.3f} {age:>9}")


def parse_number(name: str, text: str) -> float:
    """A finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise UserError(f"--{name} = {text!r}: expected a number above 0")
    return number


if __name__ == "__main__":
    run_script(main)
