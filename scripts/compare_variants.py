"""Trains the variants of one config with several seeds each and keeps a row of means and spreads for each.

    python scripts/compare_variants.py --config=F --variants=a,b --seeds=0,1,2 --workdir=W --output=docs/results/NAME

Variant `a` is the config `F:a`. Each run lies in W/<variant>/seed_<n> and resumes like any; results.json is written
again whenever a variant is complete, so the command can be stopped at any moment and started again. Variants that hold
commas are separated by semicolons instead.
"""

import re
import sys
from pathlib import Path

from repeat_run import parse_seeds, parse_variant, train_seeds

from wukong_jax.cli.command_line import parse_config_flags, run_script, take_flag
from wukong_jax.errors import UserError


def main() -> None:
    """Parses, trains every variant and seed, writes results.json."""
    arguments = list(sys.argv)
    flags = {name: take_flag(arguments, name) for name in ("variants", "seeds", "output", "config", "workdir")}
    if not flags["config"]:
        parse_config_flags(arguments, __doc__ or "")  # prints the help
    from wukong_jax.reports.kept_results import summarise_seeds, write_results

    seeds = parse_seeds(flags["seeds"])
    variants = flags["variants"].split(";" if ";" in flags["variants"] else ",")
    if len(set(variants)) != len(variants):
        raise UserError(f"--variants = {flags['variants']!r}: names one twice; leave it out")
    rows = []
    for variant in variants:
        folder = f"{flags['workdir']}/{re.sub('[/,]', '_', variant)}"
        config = parse_variant(arguments, f"{flags['config']}:{variant}", folder, __doc__ or "")
        summaries = train_seeds(config, folder, seeds)
        rows.append({"variant": variant} | summarise_seeds(summaries))
        path = write_results(Path(flags["output"]), "python " + " ".join(sys.argv), rows)
        print(f"{variant}: test AUC {rows[-1]['test_auc']:.5f} +- {rows[-1]['test_auc_std'] or 0:.5f} (in {path})")


if __name__ == "__main__":
    run_script(main)
