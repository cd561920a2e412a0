#!/usr/bin/env bash
# Sets up .venv, generates data with a known best possible loss, trains logistic regression and Wukong, and evaluates.
# Writes runs/quickstart/ with report.html. The script can be stopped at any time; running it again resumes.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/set_up_environment.sh
set_up_environment ""
.venv/bin/python scripts/train.py --config=configs/quickstart.py:logistic_regression --workdir=runs/quickstart_logistic_regression
.venv/bin/python scripts/train.py --config=configs/quickstart.py --workdir=runs/quickstart \
  --config.reference_run=runs/quickstart_logistic_regression "$@"
echo "evaluate.py on the test split:"
.venv/bin/python scripts/evaluate.py --workdir=runs/quickstart
echo "open runs/quickstart/report.html for the curves"
