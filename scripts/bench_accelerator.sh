#!/usr/bin/env bash
# Checks and measures this machine's accelerator: prints one table and writes runs/accelerator/results.json. Flags are
# passed on to bench_accelerator; --size=tiny tries it on a CPU.
# Wheels in the folder wheels/ beside this script are installed into .venv beside it, without a network. They come from
#   pip wheel --wheel-dir=scripts/wheels '.[cuda12]' pytest
# on a machine of the same kind; only this script and that folder are needed then. Without them, the checkout's .venv is
# used (set up if there is none), or else the environment in which wukong-jax is installed. PYTHON sets the interpreter.
set -euo pipefail
cd "$(dirname "$0")"
if [ -d wheels ]; then
  [ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
  python="$PWD/.venv/bin/python"
  "$python" -m pip install --quiet --disable-pip-version-check --no-index --find-links=wheels wheels/*.whl
  if [ -f ../setup.py ]; then cd ..; fi
elif [ -f ../setup.py ]; then
  cd ..
  source scripts/set_up_environment.sh
  extras="[dev]"
  if command -v nvidia-smi >/dev/null; then extras="[cuda12,dev]"; fi
  set_up_environment "$extras"
  python=.venv/bin/python
else
  python="${PYTHON:-python3}"
fi
exec "$python" -m wukong_jax bench_accelerator --output=runs/accelerator "$@"
