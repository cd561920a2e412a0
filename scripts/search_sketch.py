"""Searches a run's sizes for AUC / FLOPs^0.003, under a budget of FLOPs or of time.

    python scripts/search_sketch.py --config=configs/sketch_small.py --workdir=runs/small [--config.KEY=value]
        [--trials=20] [--budget_flops=1e6] [--budget_milliseconds=5]

Lattice Sketch. The config is a run's, with a section `config.search` that says what may change; the run as it stands is
the first trial. The command can be stopped at any time and started again, also with more trials. Leaves sketch.json,
best_config.json, best_config.py (for scripts/train.py), sketch.png and a run folder for each trial.
"""

import sys

from wukong_jax.cli.command_line import parse_config_dict_flags, run_script, take_flag
from wukong_jax.errors import UserError

_FLAGS = {"trials": int, "budget_flops": float, "budget_milliseconds": float}


def main() -> None:
    """Parses, searches, prints the best beside the hand-made run."""
    arguments = list(sys.argv)
    given = {name: take_flag(arguments, name, "") for name in _FLAGS}
    mapping, workdir = parse_config_dict_flags(arguments, __doc__ or "")
    if "search" not in mapping:
        raise UserError("--config: has no section config.search; give one as configs/sketch_small.py has")
    for name, text in given.items():
        if text:
            mapping.search[name] = _parse_number(name, text)
    try:
        from lattice.sketch.search import Sketch
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise UserError(
            "optuna: is not installed, and the search stands on it; pip install 'wukong-jax[search]'"
        ) from None
    from lattice.sketch.space import build_sketch_config

    sketch = Sketch(build_sketch_config(mapping), workdir, say=lambda text: print(text, flush=True))
    best = sketch.run()
    hand_made = sketch.trials[0]
    print("           MFLOP/example  validation AUC  test AUC  objective")
    for name, trial in (("hand-made", hand_made), ("best", best)):
        test = trial.test.get("auc")
        cells = [(trial.flops, 1e-6, "13.4f"), (trial.auc, 1, "14.4f"), (test, 1, "8.4f"), (trial.objective, 1, "9.5f")]
        print(f"{name:9}  " + "  ".join("-" if v is None else format(v * unit, form) for v, unit, form in cells))
    print(f"best: trial {best.number}, {hand_made.flops / best.flops:.2f} times fewer FLOPs than the hand-made run")
    print(f"wrote {sketch.folder}/sketch.json, best_config.json, best_config.py, sketch.png")


def _parse_number(name: str, text: str) -> float:
    try:
        return _FLAGS[name](text)
    except ValueError:
        raise UserError(f"--{name} = {text!r}: expected a number, such as {5 if name == 'trials' else '1e6'}") from None


if __name__ == "__main__":
    run_script(main)
