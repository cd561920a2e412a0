"""DLRM on Frappe, without towers, and with four towers of several compressions.

Command:   python scripts/compare_variants.py --config=dmt/frappe --variants=flat,2,4,8,16 --seeds=0,1,2
           --workdir=runs/dmt_frappe --output=docs/results/dmt_quality_frappe --config.data.path=FOLDER
           FOLDER as for public/frappe_baselines. `flat` is DLRM without towers; a number is the compression of tower
           modules over strided towers; `4,towers.json` has the towers of that file instead.
Expected:  docs/results/dmt_quality_frappe (test AUC: flat 0.9864, compression 2 0.9840, 4 0.9823, 8 0.9795); two to
           four minutes per run on 2 CPU cores
"""

from ml_collections import ConfigDict

from ..public import frappe_baselines
from . import planted


def get_config(variant: str = "flat") -> ConfigDict:
    """Returns the config of a variant: "flat", "pass_through", a compression, or "compression,towers.json"."""
    compression, _, file = variant.partition(",")
    config = frappe_baselines.get_config("dlrm")
    dlrm = dict(config.model.options)
    config.model.options = ConfigDict()
    config.embeddings.width = 64  # so wide that a quarter of it loses nothing
    config.name = f"DLRM on Frappe, {variant}"
    planted.set_model(config, compression, dlrm, file or 4)
    return config
