"""Tests the replay against a slow twin that processes the events of both logs one by one, in order of time."""

import heapq
import itertools

import numpy as np
import pytest

from lattice.windows.attribution_windows import AttributionWindows, draw_windows
from lattice.windows.event_replay import (
    Emissions,
    FirstConversions,
    build_policy,
    compare_policies,
    merge_emissions,
    replay,
)
from wukong_jax.data.blocks.batch import COLUMN_DTYPES
from wukong_jax.data.blocks.conversion_log import ConversionLog
from wukong_jax.errors import UserError
from wukong_jax.schema import CategoricalColumn, LabelColumn, Schema, Source

SCHEMA = Schema(
    name="made_up",
    source=Source(format="csv"),
    labels=(LabelColumn("click"), LabelColumn("buy"), LabelColumn("renew")),
    timestamp="time",
    categorical=(
        CategoricalColumn("user", rows=40),
        CategoricalColumn("tags", rows=10, separator="|", max_length=2),
        CategoricalColumn("item", rows=20),
    ),
)
WINDOWS = AttributionWindows(("20s", "2m", "10m"), (0.3, 0.3, 0.4))
DELAYED = (1, 2)  # buy, renew
POLICIES = ("zipper", "20s", "2m", "longest")
FOREVER = np.iinfo(np.int64).max


class Impressions:
    """A source of rows in blocks that records which blocks were read."""

    def __init__(self, columns, rows_per_block):
        self.columns, self.rows_per_block, self.reads = columns, rows_per_block, []
        self.rows = len(columns["timestamp"])
        self.num_blocks = -(-self.rows // rows_per_block)

    def block_rows(self, index):
        return min(self.rows_per_block, self.rows - index * self.rows_per_block)

    def read(self, index):
        self.reads.append(index)
        start = index * self.rows_per_block
        return {name: array[start : start + self.rows_per_block] for name, array in self.columns.items()}


def make_impressions(rows, seed, rows_per_block=7, span=2000):
    random = np.random.default_rng(seed)
    columns = {name: np.zeros((rows, *shape), COLUMN_DTYPES[name]) for name, shape in SCHEMA.column_shapes().items()}
    columns["ids"][:] = random.integers(-1, 20, (rows, 4))
    columns["timestamp"][:] = np.sort(random.integers(0, span, rows))  # often equal
    columns["label_mask"][:] = 1
    columns["weight"][:] = np.arange(rows)  # tells rows apart
    return Impressions(columns, rows_per_block)


def make_log(impressions, seed, count):
    """Returns conversions, some of the same impression and objective, with delays close to the windows' lengths."""
    random = np.random.default_rng(seed)
    impression = random.integers(0, impressions.rows, count)
    edges = random.choice([0, *WINDOWS.seconds], count)
    delay = np.maximum(0, np.where(random.random(count) < 0.4, edges, random.integers(0, 900, count)))
    timestamp = impressions.columns["timestamp"][impression] + delay
    order = np.argsort(timestamp, kind="stable")
    objective = random.choice(DELAYED, count).astype(np.int32)
    return ConversionLog(impression[order], objective[order], timestamp[order])


def run_replay(impressions, log, policy="zipper", now=FOREVER):
    """Returns all emissions concatenated: impression, window, time, converted, and the rows' weight."""
    first = FirstConversions(log, DELAYED, impressions.rows, "log")
    chosen = build_policy(policy, WINDOWS, ("user", "item"), SCHEMA)
    parts = list(replay(impressions, chosen, WINDOWS.seconds, first, now, "impressions"))
    assert all(len(part.time) for part in parts)
    emitted = [
        (int(i), int(w), int(t), tuple(c.tolist()), int(weight))
        for part in parts
        for i, w, t, c, weight in zip(
            part.impression, part.window, part.time, part.converted, part.rows["weight"], strict=True
        )
    ]
    return emitted


def slow_replay(impressions, log, policy="zipper", now=FOREVER):
    """Processes events one by one; an emission knows all conversions up to and including its second."""
    columns = impressions.columns
    windows = draw_windows(np.column_stack([columns["ids"][:, [0, 3]], columns["timestamp"]]), WINDOWS)
    if policy != "zipper":
        windows[:] = 2 if policy == "longest" else WINDOWS.names.index(policy)
    shown, converted, emit = 0, 1, 2
    events = [(int(t), shown, row) for row, t in enumerate(columns["timestamp"])]
    events += [
        (int(t), converted, row, o) for row, o, t in zip(log.impression, log.objective, log.timestamp, strict=True)
    ]
    heapq.heapify(events)
    known, emissions = set(), []
    while events and events[0][0] <= now:
        time, kind, row, *objective = heapq.heappop(events)
        if kind == shown:
            heapq.heappush(events, (time + WINDOWS.seconds[windows[row]], emit, row))
        elif kind == converted:
            known.add((int(row), int(*objective)))
        else:
            emissions.append((row, int(windows[row]), time, tuple((row, o) in known for o in DELAYED), row))
    return emissions


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("rows", "rows_per_block", "span"), [(300, 7, 2000), (300, 300, 200), (50, 1, 30), (1, 4, 9)])
def test_the_replay_equals_its_twin_event_by_event(policy, rows, rows_per_block, span):
    for seed in range(3):
        impressions = make_impressions(rows, seed, rows_per_block, span)
        log = make_log(impressions, seed, rows)
        for now in (FOREVER, span // 2):
            assert run_replay(impressions, log, policy, now) == slow_replay(impressions, log, policy, now)


@pytest.mark.parametrize("policy", POLICIES)
def test_each_impression_is_emitted_once_and_in_order(policy):
    impressions = make_impressions(400, 1)
    emitted = run_replay(impressions, make_log(impressions, 1, 200), policy)
    assert sorted(row for row, *_ in emitted) == list(range(400))
    keys = [(time, row) for row, _, time, *_ in emitted]
    assert keys == sorted(keys)
    assert len({time for time, _ in keys}) < 390  # ties did occur
    assert all(weight == row for row, *_, weight in emitted)  # the columns are the impression's own


def test_no_emission_knows_what_comes_after_it():
    """Against the raw log: a positive has a conversion by its second, a negative none."""
    impressions = make_impressions(400, 2)
    log = make_log(impressions, 2, 600)
    seen = 0
    for row, _, time, converted, _ in run_replay(impressions, log):
        for place, objective in enumerate(DELAYED):
            times = log.timestamp[(log.impression == row) & (log.objective == objective)]
            assert converted[place] == bool((times <= time).any())
            seen += bool((times > time).any() and not converted[place])
    assert seen > 20  # conversions that came too late did occur


@pytest.mark.parametrize("second", [0, 137, 800, 1999])
def test_what_happens_later_changes_no_earlier_emission(second):
    """Both logs cut at a second give the same emissions up to it: the past does not depend on the future."""
    impressions = make_impressions(400, 3)
    log = make_log(impressions, 3, 500)
    past = log.timestamp <= second
    rows = int((impressions.columns["timestamp"] <= second).sum())
    cut = Impressions({name: array[:rows] for name, array in impressions.columns.items()}, 7)
    known = ConversionLog(log.impression[past], log.objective[past], log.timestamp[past])
    whole = [emission for emission in run_replay(impressions, log) if emission[2] <= second]
    assert run_replay(cut, known, now=second) == whole
    assert whole or second == 0


def test_the_cut_off_keeps_its_own_second_and_drops_the_next():
    impressions = make_impressions(100, 4)
    log = make_log(impressions, 4, 50)
    everything = run_replay(impressions, log)
    for now in (everything[40][2], everything[40][2] - 1):
        assert run_replay(impressions, log, now=now) == [e for e in everything if e[2] <= now]
    assert run_replay(impressions, log, now=-1) == []


@pytest.mark.parametrize("seed", range(8))
def test_streams_that_tie_are_merged_in_the_impressions_order(seed):
    """Few seconds and many ties, chunks of any length: what a merge by time alone would put out of order."""
    random = np.random.default_rng(seed)
    keys = sorted(zip(random.integers(0, 6, 60).tolist(), random.permutation(60).tolist(), strict=True))
    owner = random.integers(0, 3, 60)
    streams = []
    for stream in range(4):  # the last is empty
        own = [key for key, o in zip(keys, owner, strict=True) if o == stream]
        cuts = sorted(random.integers(0, len(own) + 1, 8).tolist())
        chunks = [own[start:stop] for start, stop in itertools.pairwise([0, *cuts, len(own)]) if start < stop]
        streams.append(iter([make_emissions(chunk) for chunk in chunks]))
    merged = list(merge_emissions(streams))
    assert [
        (t, i) for part in merged for t, i in zip(part.time.tolist(), part.impression.tolist(), strict=True)
    ] == keys


def make_emissions(keys):
    time, impression = np.array(keys).T
    rows = {"timestamp": time}
    return Emissions(rows, impression, np.zeros(len(time), np.int32), time, np.zeros((len(time), 1), bool))


def test_reading_keeps_pace_with_the_stream():
    """No policy reads far ahead of what it has emitted, whatever the windows' lengths: memory stays bounded."""
    impressions = make_impressions(4000, 5, rows_per_block=20, span=400)  # all inside the longest window
    first = FirstConversions(make_log(impressions, 5, 10), DELAYED, 4000, "log")
    policy = build_policy("zipper", WINDOWS, ("user", "item"), SCHEMA)
    for chunks, part in enumerate(replay(impressions, policy, WINDOWS.seconds, first, FOREVER, ""), start=1):
        assert len(part.time) <= 3 * 20
        assert len(impressions.reads) <= chunks + 3
    assert len(impressions.reads) == 3 * 200  # each window's stream reads the log once
    impressions.reads.clear()
    list(replay(impressions, policy, WINDOWS.seconds, first, 100, ""))
    assert len(impressions.reads) < 60  # and none reads on beyond the cut-off


@pytest.mark.parametrize("now", [700, 5000])
def test_policies_are_compared_by_what_they_would_emit(now):
    impressions = make_impressions(400, 6)
    log = make_log(impressions, 6, 500)
    first = FirstConversions(log, DELAYED, 400, "log")
    policies = [build_policy(name, WINDOWS, ("user", "item"), SCHEMA) for name in POLICIES]
    compared = compare_policies(impressions, policies, WINDOWS, first, now, "impressions")
    assert list(compared) == ["zipper", "20s", "2m", "10m"]
    for policy, counts in zip(POLICIES, compared.values(), strict=True):
        emitted = slow_replay(impressions, log, policy, now)
        shown = [int(impressions.columns["timestamp"][row]) for row, *_ in emitted]
        assert (counts["emitted"], counts["not_yet_emitted"]) == (len(emitted), 400 - len(emitted))
        ages = [WINDOWS.seconds[window] for _, window, *_ in emitted]
        assert counts["mean_age_at_emission"] == pytest.approx(np.mean(ages))
        assert counts["mean_age_at_cutoff"] == pytest.approx(np.mean([now - time for time in shown]))
        for window, name in enumerate(WINDOWS.names):
            own = [converted for _, w, _, converted, _ in emitted if w == window]
            expected = {"emitted": len(own), "positives": np.sum(own, axis=0).tolist() if own else [0, 0]}
            if policy == "zipper" or own:
                assert counts["by_window"][name] == expected


def test_nothing_emitted_has_no_age():
    impressions = make_impressions(10, 7)
    first = FirstConversions(make_log(impressions, 7, 3), DELAYED, 10, "log")
    policy = build_policy("longest", WINDOWS, ("user",), SCHEMA)
    counts = compare_policies(impressions, [policy], WINDOWS, first, 0, "impressions")["10m"]
    assert counts["emitted"] == 0
    assert counts["not_yet_emitted"] == 10
    assert counts["mean_age_at_emission"] is counts["mean_age_at_cutoff"] is None


def test_all_slots_of_a_bag_belong_to_the_signature():
    rows = make_impressions(2000, 8).columns
    draw = build_policy("zipper", WINDOWS, ("user", "tags"), SCHEMA).choose
    for slot, counts in ((0, True), (1, True), (2, True), (3, False)):  # the last is the item
        changed = {**rows, "ids": rows["ids"].copy()}
        changed["ids"][:, slot] += 1
        assert (draw(rows) != draw(changed)).any() == counts


def change_time(impressions, log):
    impressions.columns["timestamp"][14] = 0  # the first of a block: its neighbour is in another


def convert_early(impressions, log):
    log.timestamp[:] = -1


def convert_outside(impressions, log):
    log.impression[3] = impressions.rows


def convert_click(impressions, log):
    log.objective[3] = 0


def mask_objective(impressions, log):
    impressions.columns["label_mask"][log.impression[0], log.objective[0]] = 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change_time, r"^impressions, row 14: timestamp = 0 is before the row above; sort"),
        (convert_early, r"^log: impression \d+ converts before it was shown"),
        (convert_outside, r"^log: a conversion of impression 200, the log of impressions has 200 rows"),
        (convert_click, r"^log: holds conversions of label 0 of the schema, which is not zipped"),
        (mask_objective, r"^log: impression \d+ converts, but its label_mask says"),
    ],
)
def test_logs_that_do_not_fit_are_refused(damage, message):
    impressions = make_impressions(200, 9)
    log = make_log(impressions, 9, 100)
    run_replay(impressions, log)
    damage(impressions, log)
    with pytest.raises(UserError, match=message):
        run_replay(impressions, log)


@pytest.mark.parametrize(
    ("name", "signature", "message"),
    [
        ("1h", ("user",), r"policy = '1h': not one of zipper, longest, 20s, 2m, 10m"),
        ("zipper", ("user", "ad"), r"signature = user,ad: no id column 'ad'; there are user, tags, item"),
        ("zipper", (), r"signature = \(\): name the columns"),
    ],
)
def test_policies_that_cannot_be_are_refused(name, signature, message):
    with pytest.raises(UserError, match=message):
        build_policy(name, WINDOWS, signature, SCHEMA)
