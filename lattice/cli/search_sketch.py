"""Search the sizes of a model that maximize AUC / FLOPs^0.003 under a budget (Lattice Sketch).

    wukong-jax search_sketch --config=lattice/sketch_small --workdir=runs/small [--config.KEY=value]
        [--trials=20] [--budget_flops=1e6] [--budget_milliseconds=5]

The config is that of a run, with an additional section `config.search` that defines the search space; the unchanged run
is the first trial. The command can be stopped at any time and started again, also with more trials. Writes sketch.json,
best_config.json, best_config.py (for train), sketch.png and a run folder for each trial.
"""

import dataclasses
import functools
import importlib.util
from typing import Annotated

from wukong_jax.cli.settings import RunFlags
from wukong_jax.errors import UserError
from wukong_jax.ranges import Above, AtLeast


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(RunFlags):
    """The command's flags."""

    trials: Annotated[int | None, "models to train, instead of config.search.trials", AtLeast(1)] = None
    budget_flops: Annotated[float | None, "maximum training FLOPs per example", Above(0)] = None
    budget_milliseconds: Annotated[float | None, "maximum time of a predict step, ms", Above(0)] = None


def run(settings: Settings) -> None:
    """Searches, and prints the best model next to the hand-made one."""
    if importlib.util.find_spec("optuna") is None:
        raise UserError("optuna: is not installed, and the search needs it; pip install 'wukong-jax[search]'")
    from lattice.sketch.search import Sketch
    from lattice.sketch.space import build_sketch_config
    from wukong_jax.cli.run_config import load_config_dict

    mapping = load_config_dict(settings)
    if "search" not in mapping:
        raise UserError("--config: has no section config.search; give one as lattice/sketch_small has")
    for name in ("trials", "budget_flops", "budget_milliseconds"):
        if getattr(settings, name) is not None:
            mapping.search[name] = getattr(settings, name)
    sketch = Sketch(build_sketch_config(mapping), settings.workdir, say=functools.partial(print, flush=True))
    best = sketch.run()
    hand_made = sketch.trials[0]
    print("           MFLOP/example  validation AUC  test AUC  objective")
    for name, trial in (("hand-made", hand_made), ("best", best)):
        test = trial.test.get("auc")
        cells = [(trial.flops, 1e-6, "13.4f"), (trial.auc, 1, "14.4f"), (test, 1, "8.4f"), (trial.objective, 1, "9.5f")]
        print(f"{name:9}  " + "  ".join("-" if v is None else format(v * unit, form) for v, unit, form in cells))
    assert hand_made.flops is not None  # it was trained
    assert best.flops is not None
    print(f"best: trial {best.number}, {hand_made.flops / best.flops:.2f} times fewer FLOPs than the hand-made run")
    print(f"wrote {sketch.folder}/sketch.json, best_config.json, best_config.py, sketch.png")
