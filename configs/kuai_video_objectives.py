"""Wukong on KuaiVideo (BARS' KuaiVideo_x1) with three objectives: click, like, follow.

Command:   python scripts/prepare_data.py --schema=kuai_video_objectives --input=FOLDER
           --output=data/kuai_video_objectives
           python scripts/train.py --config=configs/kuai_video_objectives.py --workdir=runs/kuai_video_objectives
           --config.data.path=data/kuai_video_objectives
           `:lattice`, `:mmoe`, `:ple`, `:star`, ... are other models (configs/parts/multi_domain_sets.py)
Data:      files, split, columns and model as in configs/kuai_video.py, whose header says what is not read; is_like and
           is_follow are objectives here. One domain: the set has no column for more. Likes and follows are rare, so
           look at log loss and normalized entropy beside AUC.
Published: Lattice (arXiv 2512.09200) reports these three objectives of this set; its table could not be had. For click
           alone see configs/kuai_video.py.
Expected:  not run: the data was not at hand
"""

from pathlib import Path

from ml_collections import ConfigDict

from wukong_jax.config import load_config_module

PARTS = load_config_module(Path(__file__).with_name("parts") / "multi_domain_sets.py")
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
    """The run of a model: "wukong", "lattice", or one of `PARTS.BASELINES`."""
    return PARTS.use_model(PARTS.start_kuai_video_objectives(), model, WUKONG)
