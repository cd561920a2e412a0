"""Wukong and baselines on TaobaoAds (TaobaoAd_x1 of BARS): clicks on ads, with profiles and 50 shopping actions.

Command:   python scripts/prepare_data.py --schema=taobao_ads --input=FOLDER --output=data/taobao_ads
           python scripts/train.py --config=public/taobao_ads --workdir=runs/taobao_ads
           --config.data.path=data/taobao_ads
           `:dlrm`, `:dcnv2`, `:dnn`, `:autoint`, `:afn`, `:masknet`, `:xdeepfm` or `:finalmlp` train a baseline.
Data:      TaobaoAd_x1.zip (2.44 GB) of huggingface.co/datasets/reczoo/TaobaoAd_x1; FOLDER holds its train.csv and
           test.csv (21,929,911 / 3,099,515 rows of seven days and one day; columns clk, btag_his, cate_his, brand_his,
           userid, cms_segid, cms_group_id, final_gender_code, age_level, pvalue_level, shopping_level, occupation,
           new_user_class_level, adgroup_id, cate_id, campaign_id, customer, brand, price, pid, btag; histories joined
           by ^). btag is 1 in every row; it is read because btag_his shares its table. There are no validation rows, so
           a random tenth of the test rows is used for validation; BARS stops early on the test rows. Values seen fewer
           than 10 times are unknown as in BARS, but here the counts of columns that share a table are added, while BARS
           requires 10 in one of them. Prices are transformed by log1p, which is our choice; BARS does not transform
           them.
Expected:  not run, because the data was not available. Wukong's settings are ours, as the paper gives none; its size is
           near the paper's counts for D = 128 (9.74 M dense parameters and 62.7 MFLOP against 9.95 M and 63.00)
"""

from ml_collections import ConfigDict

from . import ctr_sets


def get_config(model: str = "wukong") -> ConfigDict:
    """Returns the config of a model on TaobaoAds."""
    return ctr_sets.build_run(ctr_sets.TAOBAO_ADS, model)
