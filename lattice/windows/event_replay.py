"""Event-time replay: turns a log of impressions and conversions into a stream of training rows.

    impression at t with window W -> emitted once, at t + W, with label 1 if it has converted by then

A row depends only on what was known at the second of its emission. The stream is ordered by emission time; rows of
equal time keep the order of their impressions (our choice).

The impressions of one window are emitted in log order, so the stream merges K sorted streams. Each stream reads the log
separately, block by block: K blocks are in memory, however long the windows are, and the log is read K times. The first
conversion of each impression is kept in memory (16 bytes per conversion).

A policy assigns the windows: "zipper" draws one for each impression (`attribution_windows`); the name of a window
assigns this window to all impressions. A system without early labels uses the longest window only.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from lattice.windows.attribution_windows import AttributionWindows, draw_windows
from wukong_jax.data.blocks.batch import Columns
from wukong_jax.data.blocks.conversion_log import ConversionLog
from wukong_jax.data.blocks.loader import BlockSource
from wukong_jax.errors import UserError
from wukong_jax.schema import Schema

NEVER = np.iinfo(np.int64).max  # delay in seconds if there is no conversion


@dataclasses.dataclass(frozen=True)
class Policy:
    """Assignment of a window to each impression."""

    name: str
    choices: tuple[int, ...]  # windows that the policy may assign, ascending
    choose: Callable[[Columns], np.ndarray]  # rows as in a block -> [B] int32 windows


@dataclasses.dataclass(frozen=True)
class Emissions:
    """Consecutive emissions of a stream."""

    rows: Columns  # columns of the impressions
    impression: np.ndarray  # [B] int64, row in the impression log
    window: np.ndarray  # [B] int32, window of the impression
    time: np.ndarray  # [B] int64 seconds, time of emission
    converted: np.ndarray  # [B, delayed objectives] bool, whether it converted within the window

    def take(self, chosen: np.ndarray) -> "Emissions":
        """Returns the emissions selected by a mask [B] or by indices [n]."""
        rows = {name: array[chosen] for name, array in self.rows.items()}
        return Emissions(rows, *(array[chosen] for array in self.arrays))

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """All arrays except the columns of the impressions."""
        return self.impression, self.window, self.time, self.converted


class FirstConversions:
    """Times of each impression's first conversions; later conversions of the same objective change no label."""

    def __init__(self, log: ConversionLog, objectives: Sequence[int], rows: int, where: str) -> None:
        """Sorts the log by impression.

        Args:
          log: conversions, sorted by time.
          objectives: indices of the delayed objectives among the schema's labels.
          rows: number of rows of the impression log.
          where: description of the log, the start of every error message.

        Raises:
          UserError: the log contains an impression that does not exist, or an objective that is not delayed.
        """
        outside = (log.impression < 0) | (log.impression >= rows)
        if outside.any():
            raise UserError(
                f"{where}: a conversion of impression {log.impression[outside][0]}, the log of impressions has {rows} "
                "rows; give the conversions of this very split"
            )
        foreign = log.objective[~np.isin(log.objective, objectives)]
        if len(foreign):
            raise UserError(
                f"{where}: holds conversions of label {foreign[0]} of the schema, which is not zipped, so its final "
                "labels would leak the future; add it to the objectives, or leave its conversions out of the log"
            )
        self.objectives = tuple(objectives)
        self._where = where
        self._firsts = []
        for objective in objectives:
            own = log.objective == objective
            # The log is sorted by time, so the first entry of an impression is its first conversion.
            impression, places = np.unique(log.impression[own], return_index=True)
            self._firsts.append((impression, log.timestamp[own][places]))

    def delays(self, first_row: int, rows: Columns) -> np.ndarray:
        """Returns the seconds from impression to first conversion.

        Args:
          first_row: row number in the log of the first of B consecutive impressions.
          rows: columns of these impressions.

        Returns:
          [B, delayed objectives] int64; NEVER if there is no conversion.

        Raises:
          UserError: a conversion precedes its impression, or the impression does not have its objective.
        """
        timestamps = rows["timestamp"]
        delays = np.full((len(timestamps), len(self._firsts)), NEVER)
        for place, (impressions, times) in enumerate(self._firsts):
            start, stop = np.searchsorted(impressions, [first_row, first_row + len(timestamps)])
            own = impressions[start:stop] - first_row
            delays[own, place] = times[start:stop] - timestamps[own]
        early = (delays < 0).any(axis=1)
        if early.any():
            raise UserError(
                f"{self._where}: impression {first_row + int(np.argmax(early))} converts before it was shown; give the "
                "conversions of this very split"
            )
        absent = ((delays < NEVER) & (rows["label_mask"][:, list(self.objectives)] == 0)).any(axis=1)
        if absent.any():
            raise UserError(
                f"{self._where}: impression {first_row + int(np.argmax(absent))} converts, but its label_mask says "
                "that it does not have this objective; give the conversions of this very split"
            )
        return delays


def build_policy(name: str, windows: AttributionWindows, signature: Sequence[str], schema: Schema) -> Policy:
    """Builds a policy by name.

    Args:
      name: "zipper", the name of a window, or "longest" for the last window.
      windows: the K windows, their shares and the seed.
      signature: id columns that form the signature together with the timestamp.
      schema: schema of the impressions.

    Raises:
      UserError: an unknown policy or id column.
    """
    if name == "zipper":
        slots = find_signature_slots(signature, schema)

        def draw(rows: Columns) -> np.ndarray:
            return draw_windows(np.column_stack([rows["ids"][:, slots], rows["timestamp"]]), windows)

        return Policy(name, tuple(range(len(windows.names))), draw)
    name = windows.names[-1] if name == "longest" else name
    if name not in windows.names:
        raise UserError(f"policy = {name!r}: not one of zipper, longest, {', '.join(windows.names)}")
    window = windows.names.index(name)
    return Policy(name, (window,), lambda rows: np.full(len(rows["timestamp"]), window, np.int32))


def find_signature_slots(signature: Sequence[str], schema: Schema) -> list[int]:
    """Returns the id slots of the named columns, with all slots of a bag.

    Raises:
      UserError: no column is named, or the schema does not have one.
    """
    slots = schema.column_slots
    for name in signature:
        if name not in slots:
            raise UserError(f"signature = {','.join(signature)}: no id column {name!r}; there are {', '.join(slots)}")
    if not signature:
        raise UserError("signature = (): name the columns that identify an impression, such as user,item")
    return [slot for name in signature for slot in slots[name]]


def read_impressions(source: BlockSource, where: str) -> Iterator[tuple[int, Columns]]:
    """Reads a log of impressions and checks that it is in time order.

    Args:
      source: rows of the log.
      where: description of the log for error messages.

    Yields:
      (row number of the first row, columns) of each block.

    Raises:
      UserError: an impression is earlier than the one before it.
    """
    first_row, last = 0, np.iinfo(np.int64).min
    for index in range(source.num_blocks):
        rows = source.read(index)
        timestamps = rows["timestamp"]
        falls = timestamps < np.concatenate([[last], timestamps[:-1]])
        if falls.any():
            place = int(np.argmax(falls))
            raise UserError(
                f"{where}, row {first_row + place}: timestamp = {timestamps[place]} is before the row above; sort the "
                "raw rows by time and prepare them again"
            )
        yield first_row, rows
        first_row, last = first_row + len(timestamps), int(timestamps[-1])


def replay(
    source: BlockSource, policy: Policy, seconds: Sequence[int], conversions: FirstConversions, now: int, where: str
) -> Iterator[Emissions]:
    """Replays impressions as training rows.

    Args:
      source: impressions in time order.
      policy: assigns a window to each impression.
      seconds: lengths of the K windows.
      conversions: conversions of these impressions.
      now: cut-off in seconds; later emissions are left out.
      where: description of the source for error messages.

    Yields:
      Chunks of emissions up to `now`, ordered by (time, impression) within and across chunks.

    Raises:
      UserError: impressions are out of order, or conversions do not match them.
    """
    streams = [
        _replay_window(source, policy, window, seconds[window], conversions, now, where) for window in policy.choices
    ]
    yield from merge_emissions(streams)


def merge_emissions(streams: Sequence[Iterator[Emissions]]) -> Iterator[Emissions]:
    """Merges streams of chunks, each ordered by (time, impression), into one stream in this order."""
    heads = {index: head for index, stream in enumerate(streams) if (head := next(stream, None)) is not None}
    while heads:
        # The next chunk of a stream starts after its current one, so all up to the earliest end can be emitted.
        time, impression = min((int(head.time[-1]), int(head.impression[-1])) for head in heads.values())
        parts = []
        for index, head in list(heads.items()):
            ready = (head.time < time) | ((head.time == time) & (head.impression <= impression))
            parts.append(head.take(ready))
            heads[index] = head.take(~ready)
            if not len(heads[index].time):
                following = next(streams[index], None)
                if following is None:
                    del heads[index]
                else:
                    heads[index] = following
        merged = _join(parts)
        yield merged.take(np.lexsort((merged.impression, merged.time)))


def compare_policies(
    source: BlockSource,
    policies: Sequence[Policy],
    windows: AttributionWindows,
    conversions: FirstConversions,
    now: int,
    where: str,
) -> dict[str, dict[str, Any]]:
    """Counts what each policy would have emitted by `now`, in one pass over the log.

    Returns:
      JSON values by policy: "emitted" and "not_yet_emitted" rows; "mean_age_at_emission" (seconds from impression to
      emission) and "mean_age_at_cutoff" (seconds from impression to `now`) of emitted rows, null without any; and
      "by_window": for each window of the policy, "emitted" and "positives" (one number per delayed objective, in the
      order of `conversions`).

    Raises:
      UserError: impressions are out of order, or conversions do not match them.
    """
    seconds = np.array(windows.seconds)
    emitted = np.zeros((len(policies), len(seconds)), np.int64)
    positives = np.zeros((len(policies), len(seconds), len(conversions.objectives)), np.int64)
    ages = np.zeros(len(policies), np.int64)
    for first_row, rows in read_impressions(source, where):
        delays = conversions.delays(first_row, rows)
        for place, policy in enumerate(policies):
            chosen = policy.choose(rows)
            known = rows["timestamp"] + seconds[chosen] <= now
            ages[place] += (now - rows["timestamp"][known]).sum()
            for window in policy.choices:
                judged = known & (chosen == window)
                emitted[place, window] += judged.sum()
                positives[place, window] += (delays[judged] <= seconds[window]).sum(axis=0)
    return {
        policy.name: _describe_counts(policy, windows, source.rows, emitted[place], positives[place], int(ages[place]))
        for place, policy in enumerate(policies)
    }


def _describe_counts(
    policy: Policy, windows: AttributionWindows, rows: int, emitted: np.ndarray, positives: np.ndarray, ages: int
) -> dict[str, Any]:
    """Returns one policy's counts per window, `emitted` [K] and `positives` [K, delayed objectives], as JSON values."""
    total = int(emitted.sum())
    return {
        "emitted": total,
        "not_yet_emitted": rows - total,
        "mean_age_at_emission": float(emitted @ np.array(windows.seconds) / total) if total else None,
        "mean_age_at_cutoff": ages / total if total else None,
        "by_window": {
            windows.names[window]: {"emitted": int(emitted[window]), "positives": positives[window].tolist()}
            for window in policy.choices
        },
    }


def _replay_window(
    source: BlockSource,
    policy: Policy,
    window: int,
    seconds: int,
    conversions: FirstConversions,
    now: int,
    where: str,
) -> Iterator[Emissions]:
    """Yields the emissions of one window's impressions in log order; chunks are never empty."""
    for first_row, rows in read_impressions(source, where):
        times = rows["timestamp"] + seconds
        if times[0] > now:
            return  # all later rows are after `now`, too
        places = np.flatnonzero((policy.choose(rows) == window) & (times <= now))
        if not len(places):
            continue
        converted = conversions.delays(first_row, rows)[places] <= seconds
        taken = {name: array[places] for name, array in rows.items()}
        yield Emissions(taken, first_row + places, np.full(len(places), window, np.int32), times[places], converted)


def _join(parts: Sequence[Emissions]) -> Emissions:
    rows = {name: np.concatenate([part.rows[name] for part in parts]) for name in parts[0].rows}
    return Emissions(rows, *(np.concatenate(arrays) for arrays in zip(*(part.arrays for part in parts), strict=True)))
