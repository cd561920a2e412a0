# Sourced by the other scripts: creates .venv if it does not exist, and installs the project into it.
# Usage: set_up_environment EXTRAS     (EXTRAS: "", "[dev]" or "[docs]")
# Runs pip only if setup.py has changed since the last time. PYTHON sets the interpreter (default: python3).
set_up_environment() {
  local extras="$1" stamp
  stamp=".venv/installed$extras"
  if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then  # missing or incomplete
    "${PYTHON:-python3}" - <<'CHECK' || return 1
import sys
if sys.version_info < (3, 11):
    sys.exit(f"error: Python {sys.version.split()[0]}: 3.11 or newer is needed; set PYTHON, for example to python3.12")
CHECK
    "${PYTHON:-python3}" -m venv --clear .venv || return 1
  fi
  if ! cmp -s setup.py "$stamp"; then
    echo "installing wukong-jax$extras into .venv (once; a few minutes)" >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".$extras" || return 1
    cp setup.py "$stamp"
  fi
}
