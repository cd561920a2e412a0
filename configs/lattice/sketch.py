"""Lattice Sketch: a search for a network with at most a fifth of the FLOPs of a hand-made one, on planted portfolios.

Command:   python scripts/search_sketch.py --config=lattice/sketch --workdir=runs/sketch_lattice
           python scripts/compare_variants.py --config=lattice/sketch --variants=hand_made,found
           --seeds=1,2,3 --workdir=runs/sketch_lattice/compared --output=docs/results/lattice_sketch
           The search reads only validation rows and trains with seed 0; the second command trains both networks with
           other seeds
Data:      that of configs/lattice/planted.py, "related": 600,000 training rows of 4 domains x 3 objectives
Expected:  docs/results/lattice_sketch; half an hour on one CPU core
"""

import json
from pathlib import Path

from ml_collections import ConfigDict

from lattice.sketch.space import start_sketch_config
from wukong_jax.errors import UserError

from . import planted

FOUND = Path("runs/sketch_lattice/best_config.json")
BATCH = 2048
HAND_MADE = {
    "layers": 3,
    "fusion": {"fmb_tokens": 16, "lcb_tokens": 16, "rank": 16, "hidden": (256,)},
    "head_hidden": 128,
}


def get_config(choice: str = "search") -> ConfigDict:
    """Returns the config of the "search", of the "hand_made" run, or of the run "found" by the search."""
    if choice == "found":
        if not FOUND.exists():
            raise UserError(f"{FOUND}: is missing; run the search of configs/lattice/sketch.py first")
        return ConfigDict(json.loads(FOUND.read_text(encoding="utf-8")))
    if choice not in ("search", "hand_made"):
        raise UserError(f"choice {choice!r}: search, hand_made, found")
    config = planted.get_config("related/lattice")
    config.name = f"Lattice on planted portfolios, {choice}"
    config.embeddings.width = 32
    config.training.batch_size = BATCH
    config.optimizer.decay_steps = -(-config.data.options.train_rows // BATCH) - 30
    config.model.options = HAND_MADE
    if choice == "search":
        config.training.evaluate_every_steps = 75
        config.search = build_search()
    return config


def build_search() -> ConfigDict:
    """Returns the search space and the budget."""
    search = start_sketch_config().search
    search.space = {
        "embeddings": {"width": {"low": 8, "high": 32, "step": 8}},
        "model": {
            "options": {
                "layers": {"choices": (1, 2, 3)},
                "fusion": {
                    "fmb_tokens": {"low": 4, "high": 16, "step": 4, "also": ("model.options.fusion.lcb_tokens",)},
                    "rank": {"low": 4, "high": 16, "step": 4},
                    "hidden": {"0": {"low": 32, "high": 256, "step": 32, "log": True}},
                },
                "head_hidden": {"low": 16, "high": 128, "step": 16, "log": True},
            }
        },
    }
    search.trials = 20
    search.rungs = (0.25, 0.5)
    search.budget_flops = 2.9e6  # a fifth of the hand-made run's
    return search
