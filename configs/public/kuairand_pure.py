"""Wukong on KuaiRand-Pure under the protocol of M3oE (arXiv 2404.18465): 3 tabs x click and long view.

Command:   python scripts/convert_kuairand.py --input=KuaiRand-Pure/data --output=data/kuairand_pure.parquet
           python scripts/train.py --config=public/kuairand_pure --workdir=runs/kuairand_pure
           --config.data.path=data/kuairand_pure.parquet
           KuaiRand-Pure.tar.gz is at zenodo.org/records/10439422
           `:lattice`, `:mmoe`, `:ple`, `:star`, ... are other models (multi_domain_sets.py)
Data:      impressions of tabs 0, 1 and 4 of all three logs. Table 1 of M3oE has 178,087 / 2,236,414 / 93,165 rows;
           compare them with the counts that the converter prints. The code of M3oE for this set is not public, so the
           tabs and the features (user, video, tab, hour, and the basic features of user and video) are our
           interpretation. The random split 8:1:1 is our choice (`scripts/prepare_data.py --split=time` splits by time).
Expected:  not run, because the data was not available. Settings are ours and not searched
"""

from ml_collections import ConfigDict

from .multi_domain_sets import M3OE_WUKONG, start_kuairand_pure, use_model


def get_config(model: str = "wukong") -> ConfigDict:
    """Returns the config of a model: "wukong", "lattice", or one of `multi_domain_sets.BASELINES`."""
    return use_model(start_kuairand_pure(), model, M3OE_WUKONG)
