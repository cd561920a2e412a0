"""Wukong on KuaiVideo (KuaiVideo_x1 of BARS) with three objectives: click, like, follow.

Command:   python scripts/prepare_data.py --schema=kuai_video_objectives --input=FOLDER
           --output=data/kuai_video_objectives
           python scripts/train.py --config=public/kuai_video_objectives --workdir=runs/kuai_video_objectives
           --config.data.path=data/kuai_video_objectives
           `:lattice`, `:mmoe`, `:ple`, `:star`, ... are other models (multi_domain_sets.py)
Data:      files, split, columns and model as in public/kuai_video (see there for data that is not read), but is_like
           and is_follow are objectives. There is one domain, as no column could define more. Likes and follows are
           rare, so consider log loss and normalized entropy besides AUC.
Expected:  not run, because the data was not available
"""

from ml_collections import ConfigDict

from .multi_domain_sets import start_kuai_video_objectives, use_model

WUKONG = {
    "layers": 3,
    "fmb_tokens": 16,
    "lcb_tokens": 16,
    "rank": 24,
    "fmb_hidden": (512,),
    "head_hidden": (512, 256),
    "fmb_dropout": 0.1,
    "head_dropout": 0.1,
}


def get_config(model: str = "wukong") -> ConfigDict:
    """Returns the config of a model: "wukong", "lattice", or one of `multi_domain_sets.BASELINES`."""
    return use_model(start_kuai_video_objectives(), model, WUKONG)
