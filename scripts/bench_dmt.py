"""Times training steps with and without towers over emulated slow links, and checks the bytes that cross them.

    python scripts/bench_dmt.py --config=configs/dmt_planted.py [--hosts=4] [--chips=2]
                                [--output=docs/results/dmt_speedup] [--quality=docs/results/dmt_quality_planted]

Each host is a network namespace of this machine with a process of its own; their links are limited by `tc tbf`. So what
comes out is a speed-up over emulated links: the share of a step that links take compares with a real cluster, the rate
does not. Needs root and iproute2. All variants train the same model on the same batches and are timed in turns.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from dmt.bench.emulated_cluster import EmulatedCluster
from dmt.bench.step_times import Variant, join_quality, list_variants, measure, read_quality, write_speedup
from wukong_jax.cli.command_line import run_script
from wukong_jax.config import build_run_config, run_config_to_json
from wukong_jax.config_files import load_config
from wukong_jax.errors import UserError
from wukong_jax.files.whole_files import write_text_whole


def main() -> None:
    """Parses, builds the cluster, measures, writes results and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="a config file whose get_config takes a variant's name")
    parser.add_argument("--hosts", type=int, default=4, help="emulated hosts")
    parser.add_argument("--chips", type=int, default=2, help="CPU devices of a host")
    parser.add_argument("--rates", default="unlimited,1000,500,300,200,150,100", help="link rates, Mbit/s")
    parser.add_argument("--compressions", default="1,2,4,8,16", help="of the tower modules")
    parser.add_argument("--batch", type=int, default=4096, help="rows of the global batch")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each variant at each rate")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a turn")
    parser.add_argument(
        "--quality", default="", help="results folder with each variant's test AUC (compare_variants.py)"
    )
    parser.add_argument("--output", default="", help="folder for results.json and the picture")
    parser.add_argument(
        "--only_join", action="store_true", help="measure nothing: join --quality to the rows that --output holds"
    )
    arguments = parser.parse_args()
    rates = [parse_rate(text) for text in arguments.rates.split(",")]
    if rates[0] is not None:
        raise UserError(
            f"--rates = {arguments.rates!r}: must begin with 'unlimited', which the others are held against"
        )
    if arguments.rounds * arguments.steps < 2:
        raise UserError(f"--rounds = {arguments.rounds}, --steps = {arguments.steps}: at least 2 timed steps in all")
    if not re.fullmatch(r"\d+(,\d+)*", arguments.compressions):
        raise UserError(f"--compressions = {arguments.compressions!r}: whole numbers separated by commas, such as 2,4")
    quality = read_quality(arguments.quality)
    if arguments.only_join:
        kept = read_results(arguments.output)
        kept["rows"] = join_quality(kept["rows"], quality)
        write_text_whole(Path(arguments.output) / "results.json", json.dumps(kept, indent=1) + "\n")
        return
    variants = list_variants([int(text) for text in arguments.compressions.split(",")])
    configs = {variant.name: load_variant(arguments.config, variant, arguments) for variant in variants}
    command = "python " + " ".join(sys.argv)
    with EmulatedCluster(arguments.hosts, arguments.chips) as cluster:
        cluster.start([sys.executable, "-m", "dmt.bench.worker"])
        for rows in measure(cluster, variants, configs, rates, arguments.rounds, arguments.steps, print):
            if arguments.output:
                write_speedup(Path(arguments.output), command, rows, quality)


def read_results(folder: str) -> dict[str, Any]:
    """What a folder of results holds."""
    path = Path(folder) / "results.json"
    if not folder or not path.exists():
        raise UserError(f"--output = {folder!r}: holds no results.json to join to; measure first")
    return json.loads(path.read_text())


def parse_rate(text: str) -> float | None:
    """A rate in Mbit/s; None for "unlimited"."""
    if text == "unlimited":
        return None
    if not re.fullmatch(r"\d+(\.\d+)?", text) or not float(text):
        raise UserError(f"--rates: {text!r} is neither a number of Mbit/s above 0 nor 'unlimited'")
    return float(text)


def load_variant(file: str, variant: Variant, arguments: argparse.Namespace) -> dict[str, Any]:
    """The variant's config on the cluster's mesh, as JSON."""
    config = load_config(f"{file}:{variant.config}")
    if config.data.factory != "planted_clicks" or config.data.options.train_rows < 8 * arguments.batch:
        raise UserError(
            f"--config = {file!r}: the bench needs planted clicks (config.data.factory) with at least 8 batches of rows"
        )
    config.mesh.hosts, config.mesh.chips = arguments.hosts, arguments.chips
    config.training.batch_size = config.training.evaluation_batch_size = arguments.batch
    config.exchange.factory, config.exchange.options = variant.exchange, variant.exchange_options
    return json.loads(run_config_to_json(build_run_config(config)))


if __name__ == "__main__":
    run_script(main)
