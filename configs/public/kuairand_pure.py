"""Wukong on KuaiRand-Pure under the protocol of M3oE (arXiv 2404.18465): 3 tabs x click and long view.

Command:   python scripts/convert_kuairand.py --input=KuaiRand-Pure/data --output=data/kuairand_pure.parquet
           python scripts/train.py --config=public/kuairand_pure --workdir=runs/kuairand_pure
           --config.data.path=data/kuairand_pure.parquet
           KuaiRand-Pure.tar.gz is at zenodo.org/records/10439422
           `:lattice`, `:mmoe`, `:ple`, `:star`, ... are other models (multi_domain_sets.py)
Data:      impressions of tabs 0, 1 and 4 of all three logs. M3oE's Table 1 counts 178,087 / 2,236,414 / 93,165; the
           converter prints its counts: compare them. M3oE's code for this set is not public: that these are the tabs,
           and the features (user, video, tab, hour, the user's and the video's basic ones), are our reading. 8:1:1 at
           random, which is our choice too (`scripts/prepare_data.py --split=time` cuts by time).
Expected:  not run: the data was not at hand. Settings are ours and not searched
"""

from ml_collections import ConfigDict

from .multi_domain_sets import M3OE_WUKONG, start_kuairand_pure, use_model


def get_config(model: str = "wukong") -> ConfigDict:
    """The run of a model: "wukong", "lattice", or one of `multi_domain_sets.BASELINES`."""
    return use_model(start_kuairand_pure(), model, M3OE_WUKONG)
