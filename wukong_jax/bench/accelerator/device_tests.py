"""Runs tests of the checkout on the device: those that need one device only."""

import functools
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from wukong_jax.bench.accelerator.sizes import Cases, Row, Size

ROOT = Path(__file__).resolve().parents[3]
_SHOWN = 5  # names of failed tests


def list_cases(size: Size) -> Cases:
    """Returns the stage's cases."""
    return {"pytest": functools.partial(run_tests, size.tests)}


def run_tests(tests: tuple[str, ...], root: Path = ROOT) -> Row:
    """Runs tests with float32 products at full precision; this process leaves the device to them.

    Args:
      tests: files or folders.
      root: the checkout.

    Raises:
      RuntimeError: some failed, or none ran.
    """
    missing = [name for name in tests if not (root / name).exists()]
    if missing or importlib.util.find_spec("pytest") is None:
        what = f"no {missing[0]} beside the package" if missing else "no pytest; install the extra dev"
        return {"note": f"not run: {what}"}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}", *tests]
        # tests/conftest.py chooses the CPU if the variable is not set; empty, it leaves the choice to JAX.
        environment = {**os.environ, "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
        environment.setdefault("JAX_PLATFORMS", "")
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
        if not report.exists():
            lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
            raise RuntimeError(f"pytest ended with {done.returncode}: {lines[-1]}")
        return read_report(report)


def read_report(report: Path) -> Row:
    """Counts the tests of pytest's XML report.

    Raises:
      RuntimeError: some failed, or none ran.
    """
    cases = list(ElementTree.parse(report).iter("testcase"))
    skipped = sum(case.find("skipped") is not None for case in cases)
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    if failed:
        names = ", ".join(f"{case.get('classname')}.{case.get('name')}" for case in failed[:_SHOWN])
        raise RuntimeError(f"{len(failed)} of {len(cases)} tests failed: {names}")
    if len(cases) == skipped:
        raise RuntimeError(f"no test ran, {skipped} were skipped")
    return {"passed": len(cases) - skipped, "skipped": skipped}
