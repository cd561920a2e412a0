"""Shipped configs, one file per run or group of variants, named as in `--config=public/frappe_wukong`."""
