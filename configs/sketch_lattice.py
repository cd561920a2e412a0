"""Lattice Sketch on a large hand-made Lattice network: sizes for at most a fifth of its FLOPs, on planted portfolios.

Command:   python scripts/search_sketch.py --config=configs/sketch_lattice.py --workdir=runs/sketch_lattice
           python scripts/compare_variants.py --config=configs/sketch_lattice.py --variants=hand_made,found
           --seeds=1,2,3 --workdir=runs/sketch_lattice/compared --output=docs/results/lattice_sketch
           The search reads validation rows alone and trains with seed 0; the second command repeats both with others
Data:      those of configs/lattice_planted.py, "related": 600,000 training rows of 4 domains x 3 objectives
Expected:  docs/results/lattice_sketch; half an hour on one CPU core
"""

import json
from pathlib import Path

from ml_collections import ConfigDict

from lattice.sketch.space import start_sketch_config
from wukong_jax.config import load_config_module

PLANTED = load_config_module(Path(__file__).with_name("lattice_planted.py"))
FOUND = Path("runs/sketch_lattice/best_config.json")
BATCH = 2048
HAND_MADE = {
    "layers": 3,
    "fusion": {"fmb_tokens": 16, "lcb_tokens": 16, "rank": 16, "hidden": (256,)},
    "head_hidden": 128,
}


def get_config(choice: str = "search") -> ConfigDict:
    """The search, or a run: "hand_made", or "found" where the search has left it."""
    if choice == "found":
        if not FOUND.exists():
            raise ValueError(f"{FOUND}: is not there; run the search of configs/sketch_lattice.py first")
        return ConfigDict(json.loads(FOUND.read_text()))
    if choice not in ("search", "hand_made"):
        raise ValueError(f"choice {choice!r}: search, hand_made, found")
    config = PLANTED.get_config("related/lattice")
    config.name = f"Lattice on planted portfolios, {choice}"
    config.embeddings.width = 32
    config.training.batch_size = BATCH
    config.optimizer.decay_steps = -(-config.data.portfolios.train_rows // BATCH) - 30
    config.model.options = HAND_MADE
    if choice == "search":
        config.training.evaluate_every_steps = 75
        config.search = build_search()
    return config


def build_search() -> ConfigDict:
    """What may change, and the budget."""
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
