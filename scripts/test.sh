#!/usr/bin/env bash
# Sets up .venv with the dev extra and runs all checks: format, lint, types, documents, tests. With arguments, runs only
# pytest with them.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/set_up_environment.sh
set_up_environment "[dev]"
if [ "$#" -eq 0 ]; then
  .venv/bin/ruff format --check .
  .venv/bin/ruff check .
  .venv/bin/mypy
  ./scripts/docs.sh
  # The tests of a file run in one process, because they share slow fixtures. A process needs up to 4 GB.
  set -- --numprocesses=auto --maxprocesses=4 --dist=loadfile
fi
exec .venv/bin/python -m pytest "$@"
