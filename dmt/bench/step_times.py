"""Benchmark of the towers: the compared variants, their step times at several link rates, and the results kept.

SPTT is the semantic-preserving tower transform, the paper's exchange that leaves the flat model's results unchanged.

The *exchange share* at a link rate is `1 - t(unlimited) / t(rate)` of the better flat baseline: the share of its step
spent on slow links. Dense layers are slow on a CPU, so the share, not the rate, is comparable with a real cluster.
"""

import dataclasses
import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dmt.bench.emulated_cluster import EmulatedCluster
from wukong_jax.errors import UserError
from wukong_jax.files.whole_files import write_bytes_whole, write_text_whole
from wukong_jax.reports.kept_results import write_results
from wukong_jax.reports.theme import save_png, start_figure

FLAT, TOWERS = "wukong_jax.embeddings.flat_exchange:build", "dmt.tower_exchange:build"
BASELINES = ("flat", "flat column-wise")
COUNTED_STEPS = 6  # N of the byte count; the difference to 2 N steps removes traffic that is not part of a step
Rows = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Variant:
    """One of the compared ways to train the benchmark's model."""

    name: str
    config: str  # argument of the config file: "flat", "pass_through", or a compression
    exchange: str  # factory of the exchange
    exchange_options: Mapping[str, Any]
    compression: float | None  # compression of embeddings sent between hosts; None: uncompressed


def list_variants(compressions: Sequence[int]) -> list[Variant]:
    """Lists the baselines, SPTT alone, towers at each compression, and a tower model with the flat exchange."""
    by_table, by_column = {"placement": "table_wise"}, {"placement": "column_wise"}
    middle = compressions[len(compressions) // 2]
    return [
        Variant("flat", "flat", FLAT, by_table, None),
        Variant("flat column-wise", "flat", FLAT, by_column, None),
        Variant("SPTT", "pass_through", TOWERS, by_column, None),
        *(Variant(f"towers / {number}", str(number), TOWERS, by_column, number) for number in compressions),
        Variant(f"tower model / {middle}, flat", str(middle), FLAT, by_table, None),
    ]


def measure(
    cluster: EmulatedCluster,
    variants: Sequence[Variant],
    configs: Mapping[str, Mapping[str, Any]],
    rates: Sequence[float | None],
    rounds: int,
    steps: int,
    say: Callable[[str], None],
) -> Iterator[Rows]:
    """Builds all variants, counts their bytes, and times them in turns at every link rate.

    Args:
      cluster: a cluster whose workers are started.
      variants: the variants to compare.
      configs: config of each variant, by name.
      rates: link rates, Mbit/s; the first is None, unlimited.
      rounds: turns of each variant at each rate.
      steps: timed steps per turn.
      say: prints a line.

    Yields:
      All rows so far, after each rate.
    """
    built = {}
    for variant in variants:
        built[variant.name] = cluster.call("build", name=variant.name, config=configs[variant.name])[0]
        cluster.call("run", name=variant.name, steps=2)
    counted = {variant.name: count_bytes(cluster, variant.name) for variant in variants}
    unlimited: dict[str, float] = {}
    rows: Rows = []
    for rate in rates:
        cluster.set_rate(rate)
        seconds: dict[str, list[float]] = {variant.name: [] for variant in variants}
        for _ in range(rounds):
            for variant in variants:
                per_host = cluster.call("run", name=variant.name, steps=steps + 1)
                # A step ends when the slowest host is done. The first of a turn is dropped: hosts wait for each other.
                seconds[variant.name] += [max(times) for times in zip(*per_host, strict=True)][1:]
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        unlimited = unlimited or medians
        best = min(BASELINES, key=lambda name: medians[name])
        share = max(0.0, 1 - unlimited[best] / medians[best])
        for variant in variants:
            rows.append(
                describe(variant, rate, seconds[variant.name], medians[best], share)
                | summarise_traffic(built[variant.name], counted[variant.name])
            )
            say(format_row(rows[-1]))
        yield rows


def count_bytes(cluster: EmulatedCluster, name: str) -> float:
    """Returns the bytes that all hosts send per step by the link counters: (2 N steps minus N steps) / N."""
    sent = []
    for steps in (COUNTED_STEPS, 2 * COUNTED_STEPS):
        before = cluster.read_counters()
        cluster.call("run", name=name, steps=steps)
        after = cluster.read_counters()
        sent.append(sum(b.sent_bytes - a.sent_bytes for a, b in zip(before, after, strict=True)))
    return (sent[1] - sent[0]) / COUNTED_STEPS


def describe(
    variant: Variant, rate: float | None, seconds: Sequence[float], baseline: float, share: float
) -> dict[str, Any]:
    """Returns one row of results: a variant, a link rate, and the step times."""
    median = statistics.median(seconds)
    return {
        "variant": variant.name,
        "config": variant.config,
        "compression": variant.compression,
        "link_mbit": rate,
        "step_ms": round(median * 1e3, 2),
        "step_ms_quartiles": [round(q * 1e3, 2) for q in statistics.quantiles(seconds, n=4)[::2]],
        "steps": len(seconds),
        "flat_exchange_share": round(share, 4),
        "speedup_over_flat": round(baseline / median, 4),
    }


def summarise_traffic(built: Mapping[str, Any], counted: float) -> dict[str, Any]:
    """Returns the bytes per step between hosts, summed over hosts: as compiled, by purpose, and as counted."""
    purposes: dict[str, float] = {}
    for row in built["traffic"]:
        purposes[row["purpose"]] = purposes.get(row["purpose"], 0) + row["host_bytes"]
    total = sum(purposes.values())
    return {
        "host_bytes": total,
        **{f"host_bytes_{name.replace(' ', '_')}": number for name, number in purposes.items()},
        "counted_host_bytes": round(counted),
        "counted_over_expected": round(counted / total, 4) if total else None,
        "train_flops_per_example": built["flops"],
    }


def format_row(row: Mapping[str, Any]) -> str:
    """Formats a row as a line of text."""
    rate = "unlimited" if row["link_mbit"] is None else f"{row['link_mbit']:g} Mbit/s"
    return (
        f"{rate:>12}  {row['variant']:24} {row['step_ms']:9.1f} ms  {row['speedup_over_flat']:5.2f} x flat, share "
        f"{row['flat_exchange_share']:.2f}; {row['host_bytes'] / 1e6:7.3f} MB a step across hosts, counted "
        f"{row['counted_over_expected']}"
    )


def read_quality(folder: str) -> dict[str, Mapping[str, Any]]:
    """Reads the results of `compare_variants.py` for the same config, by variant; empty if `folder` is "".

    Raises:
      UserError: the folder holds no results.
    """
    if not folder:
        return {}
    path = Path(folder) / "results.json"
    if not path.exists():
        raise UserError(f"--quality = {folder!r}: holds no results.json; make it with compare_variants")
    return {row["variant"]: row for row in json.loads(path.read_text(encoding="utf-8"))["rows"]}


def join_quality(rows: Sequence[Mapping[str, Any]], quality: Mapping[str, Mapping[str, Any]]) -> Rows:
    """Adds each model's `test_auc` and `test_auc_std`, None if unknown; SPTT alone trains the flat model."""
    joined = []
    for row in rows:
        model = quality.get("flat" if row["config"] == "pass_through" else row["config"], {})
        joined.append({**row, "test_auc": model.get("test_auc"), "test_auc_std": model.get("test_auc_std")})
    return joined


def rejoin_quality(folder: Path, quality: Mapping[str, Mapping[str, Any]]) -> None:
    """Joins quality to the rows that a folder of results holds, in place.

    Raises:
      UserError: the folder holds no results.
    """
    path = folder / "results.json"
    if not path.exists():
        raise UserError(f"--output = {str(folder)!r}: holds no results.json to join to; measure first")
    kept = json.loads(path.read_text(encoding="utf-8"))
    kept["rows"] = join_quality(kept["rows"], quality)
    write_text_whole(path, json.dumps(kept, indent=1) + "\n")


def write_speedup(
    folder: Path, command: str, rows: Sequence[Mapping[str, Any]], quality: Mapping[str, Mapping[str, Any]]
) -> None:
    """Writes results.json, with the test AUC of each variant where it is known, and the picture.

    Args:
      folder: folder of the results.
      command: the command line that produced them.
      rows: rows from `measure`.
      quality: results from `read_quality`.
    """
    joined = join_quality(rows, quality)
    write_results(folder, command, joined)
    draw_speedup(folder / "speedup.png", joined)


def draw_speedup(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Plots the speed-up over the better flat baseline against the share of its step spent on slow links."""
    figure = start_figure(8, 5, dpi=120)
    axes = figure.subplots()
    for name in dict.fromkeys(row["variant"] for row in rows):
        own = sorted((row for row in rows if row["variant"] == name), key=lambda row: row["flat_exchange_share"])
        style = "--" if name in (*BASELINES, "SPTT") or "flat" in name else "-"
        axes.plot(
            [row["flat_exchange_share"] for row in own],
            [row["speedup_over_flat"] for row in own],
            style,
            marker="o",
            label=name,
        )
    axes.axhline(1, color="black", linewidth=0.8)
    axes.axhspan(0, 1, color="tab:red", alpha=0.06)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("share of its step that the better flat baseline spends on emulated slow links")
    axes.set_ylabel("speed-up over the better flat baseline")
    axes.set_title("Emulated links: hosts are network namespaces of one machine; below 1 towers lose")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    write_bytes_whole(path, save_png(figure))
