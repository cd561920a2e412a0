"""Tests the launcher with processes that only sleep: signals reach them, and none is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.repository import ROOT
from wukong_jax.clusters.local_processes import LocalProcesses

# Writes its number to a file, then sleeps; ends with code 143 on SIGTERM.
SLEEPER = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
open(sys.argv[1], "w", encoding="utf-8").write(str(os.getpid()))
time.sleep(60)
"""


def sleeper(file: Path) -> list[str]:
    return [sys.executable, "-c", SLEEPER, str(file)]


def read_number(file: Path) -> int:
    """Waits until a process has written its number."""
    stop = time.monotonic() + 20
    while not file.exists() or not file.read_text(encoding="utf-8"):
        assert time.monotonic() < stop
        time.sleep(0.02)
    return int(file.read_text(encoding="utf-8"))


def wait_for_end(number: int) -> bool:
    """Whether a process is gone within some seconds; one that nobody has collected yet is gone, too."""
    stop = time.monotonic() + 10
    while time.monotonic() < stop:
        try:
            if Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def test_the_first_bad_end_ends_all_and_gives_its_code(tmp_path, capfd):
    child = f"import subprocess, sys; subprocess.run({sleeper(tmp_path / 'grandchild')!r})"
    failing = "import sys, time; print('last words', flush=True); time.sleep(1); sys.exit(3)"
    commands = [[sys.executable, "-c", failing], [sys.executable, "-c", child]]
    began = time.monotonic()
    with LocalProcesses(commands, [dict(os.environ)] * 2, grace_seconds=1.0) as started:
        grandchild = read_number(tmp_path / "grandchild")
        assert started.wait() == 3
    assert time.monotonic() - began < 30
    assert wait_for_end(grandchild)
    out, err = capfd.readouterr()
    assert "[0] last words" in out.splitlines()
    assert "process 0 ended with exit code 3" in err
    assert "killing process 1" in err


def test_sigterm_is_passed_on_to_all(tmp_path):
    files = [tmp_path / "a", tmp_path / "b"]
    with LocalProcesses([sleeper(file) for file in files], [dict(os.environ)] * 2, grace_seconds=5.0) as started:
        for file in files:
            read_number(file)
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        assert started.wait() == 143
    assert signal.getsignal(signal.SIGTERM) != started._pass_on


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends the children of a dead launcher")
def test_a_killed_launcher_leaves_nothing_behind(tmp_path):
    script = (
        "import os\nfrom wukong_jax.clusters.local_processes import LocalProcesses\n"
        f"with LocalProcesses([{sleeper(tmp_path / 'child')!r}], [dict(os.environ)], 1.0) as started: started.wait()"
    )
    launcher = subprocess.Popen([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": str(ROOT)})
    child = read_number(tmp_path / "child")
    launcher.kill()
    launcher.wait()
    assert wait_for_end(child)
