"""Sets up eight fake CPU devices, and provides the real data sets if available."""

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import atexit
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# The processes of a session share compiled programs: many tests train the same tiny run.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled_programs-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background, and in every program started here
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """Returns a function from a data set's name to its folder; it skips the test, with a reason, if there is none."""
    root = Path(os.environ.get("WUKONG_JAX_DATA", REPOSITORY.parent / "shared" / "data"))

    def find(name: str) -> Path:
        folder = root / name
        if not folder.is_dir():
            pytest.skip(f"no {name} data: {folder} does not exist (set WUKONG_JAX_DATA to the folder that holds it)")
        return folder

    return find


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Lets SIGINT interrupt this process, also where it was started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out long trainings unless they are asked for by `-m quality`."""
    if "quality" in config.option.markexpr:
        return
    left_out = [item for item in items if item.get_closest_marker("quality")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
