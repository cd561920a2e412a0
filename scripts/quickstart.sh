#!/usr/bin/env bash
# Sets up .venv, makes data whose answer is known, trains logistic regression and then Wukong on it, evaluates, draws.
# Leaves runs/quickstart/ with report.html. Can be stopped and run again at any moment: it goes on from there.
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
