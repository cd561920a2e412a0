"""Lists the commands by group, and loads their modules on demand.

The module of a command has a docstring (the help), a dataclass `Settings` (the flags) and a function `run(settings)`.
Modules that are slow to import are imported at the start of `run`, so that `--help` is quick.
"""

import difflib
import importlib
from types import ModuleType

from wukong_jax.cli.parser import UsageError

GROUPS = {
    "train and score": (
        "wukong_jax.cli.train",
        "wukong_jax.cli.train_online",
        "wukong_jax.cli.evaluate",
        "wukong_jax.cli.predict",
    ),
    "serving": (
        "wukong_jax.cli.export",
        "wukong_jax.cli.apply_delta",
        "wukong_jax.cli.serve",
        "wukong_jax.cli.nearest",
    ),
    "data": (
        "wukong_jax.cli.infer_schema",
        "wukong_jax.cli.prepare_data",
        "wukong_jax.cli.make_planted_clicks",
        "wukong_jax.cli.make_planted_portfolios",
        "wukong_jax.cli.make_drifting_log",
        "wukong_jax.cli.convert_movielens",
        "wukong_jax.cli.convert_kuairand",
        "wukong_jax.cli.convert_flights",
    ),
    "scaling": (
        "wukong_jax.cli.repeat_run",
        "wukong_jax.cli.compare_variants",
        "wukong_jax.cli.scaling_curve",
        "wukong_jax.cli.map_sweeps",
        "wukong_jax.cli.count_presets",
    ),
    "towers": ("dmt.cli.partition_towers", "dmt.cli.compare_groupings"),
    "Lattice": (
        "lattice.cli.merge_datasets",
        "lattice.cli.partition_portfolios",
        "lattice.cli.compare_consolidation",
        "lattice.cli.zip_windows",
        "lattice.cli.compare_windows",
        "lattice.cli.filter_features",
        "lattice.cli.run_teacher",
        "lattice.cli.search_sketch",
    ),
    "clusters": (
        "wukong_jax.cli.launch_local",
        "wukong_jax.cli.compile_for_cluster",
        "wukong_jax.cli.keep_compiled",
        "lattice.cli.plan_sharding",
    ),
    "bench": (
        "wukong_jax.cli.bench_data",
        "wukong_jax.cli.bench_embeddings",
        "wukong_jax.cli.bench_train_step",
        "wukong_jax.cli.bench_accelerator",
        "wukong_jax.cli.bench_growth",
        "wukong_jax.cli.bench_loop",
        "wukong_jax.cli.bench_serving",
        "wukong_jax.cli.compare_drafts",
        "wukong_jax.cli.compare_online",
        "dmt.cli.bench_dmt",
    ),
}
MODULES = {name.rpartition(".")[2]: name for names in GROUPS.values() for name in names}


def load_command(name: str) -> ModuleType:
    """Imports a command's module.

    Args:
      name: name of the command, with underscores or dashes.

    Raises:
      UsageError: there is no such command.
    """
    known = name.replace("-", "_")
    if known not in MODULES:
        near = difflib.get_close_matches(known, MODULES, n=1)
        raise UsageError(f"unknown command {name!r}" + (f"; did you mean {near[0]}?" if near else ""))
    return importlib.import_module(MODULES[known])


def describe_commands() -> str:
    """Returns the help of `wukong-jax`: the commands by group, one line each."""
    lines = ["usage: wukong-jax COMMAND [flags]", ""]
    width = max(map(len, MODULES))
    for group, names in GROUPS.items():
        lines.append(f"{group}:")
        for name in names:
            summary = (importlib.import_module(name).__doc__ or "").partition("\n")[0].rstrip(".")
            lines.append(f"  {name.rpartition('.')[2]:{width}}  {summary}")
        lines.append("")
    return "\n".join([*lines, "wukong-jax COMMAND --help describes a command and its flags."])
