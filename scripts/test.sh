#!/usr/bin/env bash
# Sets up .venv with the dev extras and runs every check: format, lint, types, tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/set_up_environment.sh
set_up_environment "[dev]"
if [ "$#" -eq 0 ]; then
  .venv/bin/ruff format --check .
  .venv/bin/ruff check .
  .venv/bin/mypy
fi
exec .venv/bin/python -m pytest "$@"
