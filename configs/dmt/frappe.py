"""DLRM on Frappe, plain and with four towers at a chosen compression.

Command:   python scripts/compare_variants.py --config=dmt/frappe --variants=flat,2,4,8,16 --seeds=0,1,2
           --workdir=runs/dmt_frappe --output=docs/results/dmt_quality_frappe --config.data.path=FOLDER
           FOLDER as for public/frappe_baselines. `flat` is plain DLRM; a number is DLRM behind tower modules of that
           compression over strided towers; `4,towers.json` the same with the towers of that file.
Expected:  docs/results/dmt_quality_frappe (test AUC: flat 0.9864, compression 2 0.9840, 4 0.9823, 8 0.9795); two to
           four minutes a run on 2 CPU cores
"""

from ml_collections import ConfigDict

from ..public import frappe_baselines
from . import planted


def get_config(variant: str = "flat") -> ConfigDict:
    """The run of a variant: "flat", "pass_through", a compression, or "compression,towers.json"."""
    compression, _, file = variant.partition(",")
    config = frappe_baselines.get_config("dlrm")
    dlrm = dict(config.model.options)
    config.model.options = ConfigDict()
    config.embeddings.width = 64  # wide enough that a quarter of it loses nothing
    config.name = f"DLRM on Frappe, {variant}"
    planted.set_model(config, compression, dlrm, file or 4)
    return config
