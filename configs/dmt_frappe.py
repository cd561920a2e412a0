"""DLRM on Frappe, plain and with four towers at a chosen compression.

Command:   python scripts/compare_variants.py --config=configs/dmt_frappe.py --variants=flat,2,4,8,16 --seeds=0,1,2
           --workdir=runs/dmt_frappe --output=docs/results/dmt_quality_frappe --config.data.path=FOLDER
           FOLDER as for configs/frappe_dlrm.py. `flat` is plain DLRM; a number is DLRM behind tower modules of that
           compression over strided towers; `4,towers.json` the same with the towers of that file.
Expected:  flat: test AUC 0.986 (one seed); the variants with towers have no kept result yet; two to four minutes a run
           on 2 CPU cores
"""

import importlib.util
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict


def get_config(variant: str = "flat") -> ConfigDict:
    """The run of a variant: "flat", "pass_through", a compression, or "compression,towers.json"."""
    compression, _, file = variant.partition(",")
    config = _load_sibling("frappe_dlrm").get_config()
    dlrm = dict(config.model.options)
    config.model.options = ConfigDict()
    config.embeddings.width = 64  # wide enough that a quarter of it loses nothing
    config.name = f"DLRM on Frappe, {variant}"
    _load_sibling("dmt_planted").set_model(config, compression, dlrm, file or 4)
    return config


def _load_sibling(name: str) -> ModuleType:
    """A module of this folder; config files are run by path, so the folder is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
