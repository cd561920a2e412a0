"""Lattice and baselines on planted portfolios: 4 domains x 3 objectives, informative histories, known Bayes log loss.

Command:   python scripts/train.py --config=lattice/planted --workdir=runs/lattice_planted
           `:DATA/MODEL` chooses the data and the model. Data: "related", or "conflict", in which one domain is opposed
           to the others (what makes clicks more likely there makes them less likely here). Model: "events" (histories
           are read event by event; the default), "lattice" (histories are pooled, a tenth of the time on a CPU), "tied"
           or "fmb" (like "lattice", but with no untied weights, or also the fusion block untied), "batch" (like
           "lattice", but its inputs are normalised over the batch), "plain" (like "batch", without an activation
           after its blocks), or a baseline of multi_domain_sets.py with about the FLOPs of Lattice.
           Compare Lattice and baselines with one model per portfolio, then on data with the conflict:
           python scripts/compare_consolidation.py --config=lattice/planted --alone=related/lattice
           --together=related/lattice,related/shared_bottom,related/mmoe,related/ple,related/star,related/adatt,
           related/pepnet,related/tied --seeds=0,1,2 --workdir=runs/lattice_related
           --output=docs/results/lattice_consolidation_planted
           python scripts/compare_consolidation.py --config=lattice/planted --alone=conflict/lattice
           --together=conflict/tied,conflict/lattice,conflict/fmb --seeds=0,1,2 --workdir=runs/lattice_conflict
           --output=docs/results/lattice_conflict
           python scripts/partition_portfolios.py --data=runs/lattice_conflict/data --user=user --item=item
           --workdir=runs/lattice_conflict/together/conflict_tied/seed_0 --rules=configs/lattice/conflict_rules.json
           --output=docs/results/lattice_conflict/groups.json
           and the second command again with --groups=docs/results/lattice_conflict/groups.json; without --rules, the
           Partitioner merges all portfolios
           What the norm of the inputs is worth:
           python scripts/compare_variants.py --config=lattice/planted --seeds=0,1,2
           --variants=related/lattice,related/batch,related/plain,related/star
           --workdir=runs/lattice_input_norm --output=docs/results/lattice_input_norm
Data:      generated: 150,000 training rows per domain; user, item, 6 fields, 2 numbers and the user's last 12 items;
           objectives with base rates 0.25, 0.1 and 0.05, whose true logits have correlation 0.8 between domains and 0.6
           within a domain
Expected:  docs/results/lattice_consolidation_planted, docs/results/lattice_input_norm, docs/results/lattice_conflict
"""

from ml_collections import ConfigDict

from wukong_jax.config import start_config
from wukong_jax.errors import UserError

from ..public import multi_domain_sets
from . import one_pass

BATCH, ROWS = 512, 600_000
LATTICE = {"layers": 2, "fusion": {"fmb_tokens": 8, "lcb_tokens": 8, "rank": 8, "hidden": (128,)}, "head_hidden": 32}
# Sizes of baselines with the training FLOPs of Lattice (1.05 MFLOP), within 5 %.
SIZES = {
    "separate": {},
    "shared_bottom": {"shared_hidden": (424, 128)},
    "mmoe": {"experts": 5, "expert_hidden": (132,)},
    "ple": {"expert_hidden": (49,)},
    "star": {"star_hidden": (160, 88)},
    "adatt": {"expert_hidden": (46,)},
    "pepnet": {"tower_hidden": (224, 64)},
}
NETWORKS = {
    "lattice": {"untied": ("heads",)},
    "tied": {"untied": ()},
    "fmb": {"untied": ("fmb", "heads")},
    "batch": {"untied": ("heads",), "input_norm": "batch"},
    "plain": {
        "untied": ("heads",),
        "input_norm": "batch",
        "fusion": LATTICE["fusion"] | {"output_activation": "none"},
    },
}


def get_config(choice: str = "related/events") -> ConfigDict:
    """Returns the config of one network for all portfolios, "DATA/MODEL" as described above."""
    data, _, model = choice.partition("/")
    config = start_config()
    config.name = f"{model or 'events'} on planted portfolios, {data}"
    config.data.factory = "planted_portfolios"
    config.data.options = plant(data)

    one_pass.set_tables(config)
    config.embeddings.pooling = "mean"
    one_pass.set_training(config, rows=ROWS, batch=BATCH, warmup_steps=30)
    return use_model(config, model or "events", data)


def use_model(config: ConfigDict, model: str, data: str) -> ConfigDict:
    """Adds a model to the config."""
    if model == "events":
        config.model.factory = "lattice.network:build"
        untied = ("heads",) if data == "related" else ("ffn", "fmb", "heads")
        config.model.options = LATTICE | {"sequences": ("history",), "untied": untied}
        config.embeddings.fields = ConfigDict({"history": {"pooling": "none"}})
    elif model in NETWORKS:
        config.model.factory = "lattice.network:build"
        config.model.options = LATTICE | NETWORKS[model]
    elif model in SIZES:
        config.model.factory = f"lattice.baselines.{model}:build"
        config.model.options = ConfigDict(multi_domain_sets.BASELINES[model] | SIZES[model])
    else:
        raise UserError(f"model {model!r}: events, {', '.join(NETWORKS)}, {', '.join(SIZES)}")
    return config


def plant(data: str) -> ConfigDict:
    """Returns the options of the generated data."""
    if data not in ("related", "conflict"):
        raise UserError(f"data {data!r}: related, conflict")
    planted = ConfigDict()
    planted.domains = 4
    planted.objectives = ("click", "like", "buy")
    planted.base_rates = (0.25, 0.1, 0.05)
    planted.domain_relatedness = 0.8
    planted.objective_relatedness = 0.6
    planted.opposed_domains = (3,) if data == "conflict" else ()
    planted.fields = 6
    planted.values_per_field = 30
    planted.sequence_length = 12
    planted.sequence_share = 0.25
    planted.train_rows = ROWS
    planted.validation_rows = 80_000
    planted.test_rows = 200_000
    return planted
