"""The shipped configs, one file a run, named as in `--config=public/frappe_wukong`."""
