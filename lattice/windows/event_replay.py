"""Event-time replay: an impression log and its conversions as the stream of training rows that existed at each second.

    impression at t, judged by window W -> emitted once, at t + W, labelled 1 if it has converted by then

Nothing reads past an emission's own second, so a row that is trained on says what was known when it came. The stream
is in the order of emission times, and in the impressions' order where these are equal (our own choice).

The impressions judged by one window are emitted in their own order, so the stream is a merge of K sorted ones. Each
reads the log for itself, block by block: K blocks are held, however long the windows are, and the log is read K
times. The first conversion of each impression is held in memory (16 bytes a conversion).

Which window judges an impression is a policy's choice: "zipper" draws it (`attribution_windows`), any window's name
means that window for all impressions. The longest alone is what a system without early labels waits for.
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

NEVER = np.iinfo(np.int64).max  # the delay, in seconds, of a conversion that does not come


@dataclasses.dataclass(frozen=True)
class Policy:
    """Which window judges each impression."""

    name: str
    choices: tuple[int, ...]  # windows that it may choose, ascending
    choose: Callable[[Columns], np.ndarray]  # rows as in a block -> [B] int32 windows


@dataclasses.dataclass(frozen=True)
class Emissions:
    """Consecutive emissions of a stream."""

    rows: Columns  # the impressions' own columns
    impression: np.ndarray  # [B] int64, row of the impression log
    window: np.ndarray  # [B] int32, that judged it
    time: np.ndarray  # [B] int64 seconds, at which it was emitted
    converted: np.ndarray  # [B, delayed objectives] bool, within the window

    def take(self, chosen: np.ndarray) -> "Emissions":
        """The emissions of a mask [B] or of places [n]."""
        rows = {name: array[chosen] for name, array in self.rows.items()}
        return Emissions(rows, *(array[chosen] for array in self.arrays))

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """What is not a column of the impression."""
        return self.impression, self.window, self.time, self.converted


class FirstConversions:
    """When each impression first converted; later conversions of the same objective change no label."""

    def __init__(self, log: ConversionLog, objectives: Sequence[int], rows: int, where: str) -> None:
        """Sorts the log by impression.

        Args:
          log: sorted by time.
          objectives: places of the delayed objectives among the schema's labels.
          rows: of the impression log.
          where: what the log is, the start of every error.

        Raises:
          UserError: the log names an impression that is not there, or an objective that is not among the delayed.
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
                "labels would tell the future; add it to the objectives, or leave its conversions out of the log"
            )
        self.objectives = tuple(objectives)
        self._where = where
        self._firsts = []
        for objective in objectives:
            own = log.objective == objective
            # The log ascends in time, so an impression's first place in it is its first conversion.
            impression, places = np.unique(log.impression[own], return_index=True)
            self._firsts.append((impression, log.timestamp[own][places]))

    def delays(self, first_row: int, rows: Columns) -> np.ndarray:
        """Seconds from impression to first conversion.

        Args:
          first_row: of consecutive impressions, in their log.
          rows: their columns.

        Returns:
          [B, delayed objectives] int64; NEVER where there is no conversion.

        Raises:
          UserError: a conversion comes before its impression, or of an objective that its impression does not have.
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
    """Finds a policy by name.

    Args:
      name: "zipper", a window's name, or "longest", which stands for the last window's name.
      windows: the K windows, their shares and the seed.
      signature: id columns that make the signature together with the timestamp.
      schema: of the impressions.

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
    """The id slots of the named columns, all slots of a bag.

    Raises:
      UserError: no column, or one that the schema does not have.
    """
    slots = {column.name: range(start, stop) for column, start, stop in schema.slot_ranges()}
    for name in signature:
        if name not in slots:
            raise UserError(f"signature = {','.join(signature)}: no id column {name!r}; there are {', '.join(slots)}")
    if not signature:
        raise UserError("signature = (): name the columns that identify an impression, as user,item")
    return [slot for name in signature for slot in slots[name]]


def read_impressions(source: BlockSource, where: str) -> Iterator[tuple[int, Columns]]:
    """Reads a log of impressions in order.

    Args:
      source: its rows.
      where: what it is, for errors.

    Yields:
      (row number of the first, columns) of each block.

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
    """Replays the impressions as training rows.

    Args:
      source: impressions in the order of time.
      policy: which window judges each.
      seconds: the K windows' lengths.
      conversions: of these impressions.
      now: seconds; what is emitted later does not exist yet.
      where: what the source is, for errors.

    Yields:
      Chunks of emissions with time up to `now`, in the order of (time, impression) within and across chunks.

    Raises:
      UserError: impressions out of order, or conversions that do not fit them.
    """
    streams = [
        _replay_window(source, policy, window, seconds[window], conversions, now, where) for window in policy.choices
    ]
    yield from merge_emissions(streams)


def merge_emissions(streams: Sequence[Iterator[Emissions]]) -> Iterator[Emissions]:
    """Merges streams of chunks, each in the order of (time, impression), into one of that order."""
    heads = {index: head for index, stream in enumerate(streams) if (head := next(stream, None)) is not None}
    while heads:
        # Up to the earliest end of a chunk that is held, no stream can bring anything earlier.
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
    """What each policy would have emitted by `now`, counted in one reading of the log.

    Returns:
      Policy to JSON values: "emitted" and "not_yet_emitted" rows, "mean_age_at_emission" (seconds from impression to
      emission) and "mean_age_at_cutoff" (to `now`) of the emitted, null where there are none, and "by_window": for each
      window it chooses, "emitted" and "positives" (one number a delayed objective, in the conversions' order).

    Raises:
      UserError: impressions out of order, or conversions that do not fit them.
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
    """One policy's counts by window, `emitted` [K] and `positives` [K, delayed objectives], as JSON values."""
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
    """The impressions that one window judges, emitted in their own order; chunks are never empty."""
    for first_row, rows in read_impressions(source, where):
        times = rows["timestamp"] + seconds
        if times[0] > now:
            return  # and so are all that follow
        places = np.flatnonzero((policy.choose(rows) == window) & (times <= now))
        if not len(places):
            continue
        converted = conversions.delays(first_row, rows)[places] <= seconds
        taken = {name: array[places] for name, array in rows.items()}
        yield Emissions(taken, first_row + places, np.full(len(places), window, np.int32), times[places], converted)


def _join(parts: Sequence[Emissions]) -> Emissions:
    rows = {name: np.concatenate([part.rows[name] for part in parts]) for name in parts[0].rows}
    return Emissions(rows, *(np.concatenate(arrays) for arrays in zip(*(part.arrays for part in parts), strict=True)))
