#!/usr/bin/env bash
# Sets up .venv with the dev extras and runs every check: format, lint, types, documents, tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/set_up_environment.sh
set_up_environment "[dev]"
if [ "$#" -eq 0 ]; then
  .venv/bin/ruff format --check .
  .venv/bin/ruff check .
  .venv/bin/mypy
  ./scripts/docs.sh
  # A file's tests stay in one process: they share what is slow to make. A process takes up to 4 GB.
  set -- --numprocesses=auto --maxprocesses=4 --dist=loadfile
fi
exec .venv/bin/python -m pytest "$@"
