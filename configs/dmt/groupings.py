"""DLRM with mixing tower modules on three data sets, to test whether it matters which features share a tower.

Command:   python scripts/compare_groupings.py --config=dmt/groupings --data=planted --variant=dcn2
           --seeds=0,1,2 --workdir=runs/groupings_planted --output=docs/results/dmt_partitioner
           and the same with `--data=frappe` and `--data=census`, each with `--config.data.path=FOLDER`
           A variant is `DATA/flat`, `DATA/dcn2` (DCN tower modules of compression 2 over four strided towers), or
           `DATA/dcn2,towers.json` (with the towers of a file).
Expected:  docs/results/dmt_partitioner (planted: strided 0.8095, TP coherent 0.8127; census-income and
           Frappe: no difference larger than that between seeds); half a minute to two minutes per run on 2 CPU cores
"""

from ml_collections import ConfigDict

from wukong_jax.errors import UserError

from ..public import census_income, frappe_baselines
from . import planted


def get_config(variant: str = "planted/flat") -> ConfigDict:
    """Returns the config of "data/model" or "data/model,towers.json"."""
    data, _, model = variant.partition("/")
    model, _, file = model.partition(",")
    if data == "planted":
        config = planted.get_config("flat")
        config.data.options.groups = planted.TOWERS
        config.embeddings.width = 32
        config.training.epochs = 1
        config.optimizer.schedule = "constant"
        config.optimizer.decay_steps = 0
    elif data == "frappe":
        config = frappe_baselines.get_config("dlrm")
    elif data == "census":
        config = census_income.get_config()
        config.model.factory = "wukong_jax.models.dlrm:build"
        config.model.options = {"top_hidden": (64,), "top_dropout": 0.1, "bottom_hidden": (32,), "pair_norm": True}
    else:
        raise UserError(f"data {data!r}: 'planted', 'frappe' or 'census'")
    dlrm = dict(config.model.options)
    config.model.options = ConfigDict()
    config.name = f"DLRM on {variant}"
    planted.set_model(config, model, dlrm, file or planted.TOWERS)
    return config
