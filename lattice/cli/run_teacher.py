"""Train a teacher in chunks, and store its embeddings and logits for students (Lattice KTAP).

    wukong-jax run_teacher --config=F --workdir=W --store=DIR --keys=user,item [--chunks=8] [--config.KEY=value]

A student is a normal run whose config joins the store to its rows:
    config.data.join.factory = "lattice.teacher.knowledge_transfer:build_join"
    config.data.join.options = {"store": DIR, "time_to_live_hours": 6.0}
    config.model.options: teacher_tokens (features); config.loss: lattice.losses:build, distillation_weight (labels)
Prints the hit rate and the age of the entries that such a student finds, and writes them to DIR/hits.json. Several
processes train and score together, started as those of train; process 0 reads the rows to score, and writes.
"""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Annotated, Literal

from wukong_jax.cli.settings import RunFlags, TeamFlags
from wukong_jax.ranges import Above, AtLeast


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(RunFlags, TeamFlags):
    """The command's flags."""

    store: Annotated[str, "folder of the store to write"]
    keys: Annotated[tuple[str, ...], "id columns whose ids form the key of the store"]
    chunks: Annotated[int, "number of chunks of the training rows", AtLeast(2)] = 8
    scored: Annotated[
        Literal["same", "next"], "chunk that the teacher scores after training on a chunk: the same, or the next"
    ] = "next"
    key: Annotated[
        Literal["pair", "impression"], "key of an entry: the ids of --keys, or these ids and the timestamp"
    ] = "pair"
    time_to_live_hours: Annotated[float, "maximum age at which a student reads an entry", Above(0)] = 6.0


def run(settings: Settings) -> None:
    """Trains and scores chunk by chunk, then measures and prints the hit rates."""
    from lattice.teacher.replay import (
        ReplaySettings,
        find_chunk_ends,
        measure_hits,
        open_teacher_rows,
        replay_teacher,
    )
    from wukong_jax.cli.joining import join_team
    from wukong_jax.cli.run_config import build_config
    from wukong_jax.files.whole_files import write_text_whole
    from wukong_jax.sharding.team import find_team

    config, say = build_config(settings), functools.partial(print, flush=True)
    join_team(settings, config.training.stall_limit)
    replay = ReplaySettings(settings.chunks, settings.keys, settings.key == "impression", settings.scored)
    replay_teacher(config, settings.workdir, settings.store, replay, say)
    if not find_team().is_lead:
        return
    data = open_teacher_rows(config, settings.workdir, say)
    ends = find_chunk_ends(data.splits["train"].rows, config.training.batch_size, replay.chunks)
    hits = measure_hits(data, settings.store, settings.time_to_live_hours, ends)
    write_text_whole(Path(settings.store) / "hits.json", json.dumps(hits, indent=1) + "\n")
    print("rows of a student       rows  hit rate  mean age")
    for row in hits:
        age = "-" if row["mean_age_seconds"] is None else f"{row['mean_age_seconds'] / 3600:.2f} h"
        print(f"{row['rows']:18} {row['number']:>9,} {row['hit_rate']:>9.3f} {age:>9}")
