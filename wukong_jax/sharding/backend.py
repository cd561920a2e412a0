"""Finds the devices of this process and of its team, and says in one line why JAX has none."""

import os
import re
import traceback

import jax

from wukong_jax.errors import UserError
from wukong_jax.sharding.team import find_team

_STARTS_BACKENDS = "xla_bridge.py"  # the file of JAX in which backends start
_PREFIX = re.compile(r"Unable to initialize backend '[^']*': ")
_EXTRAS = {"cuda": "cuda12", "gpu": "cuda12", "tpu": "tpu"}  # backend -> extra that installs it

_GPU_PLATFORMS = frozenset({"gpu", "cuda", "rocm"})
_FAST_ON_GPUS = (0, 12)  # first version of JAX with native atomic additions; see xla issue 46225


def find_local_devices() -> list[jax.Device]:
    """Returns the devices of this process.

    Raises:
      UserError: the backend that was asked for is not installed, or cannot start.
    """
    try:
        return jax.local_devices()
    except Exception as error:
        line = describe_missing_backend(error)
        if line is None:
            raise
        raise UserError(line) from error


def find_devices() -> list[jax.Device]:
    """Returns the devices of all processes that train together, process by process.

    Raises:
      UserError: see `find_local_devices`.
    """
    own = find_local_devices()
    return own if find_team().count == 1 else jax.devices()


def describe_missing_backend(error: BaseException) -> str | None:
    """Describes an exception of JAX's start in one line; None if it has another origin."""
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    if not any(name.endswith(_STARTS_BACKENDS) for name in frames[-4:]):
        return None
    asked = os.environ.get("JAX_PLATFORMS", "")
    reason = " ".join(str(error).split()).partition(" (set JAX_PLATFORMS")[0].rstrip(".")
    reason = _PREFIX.sub("", reason)
    named = f"JAX_PLATFORMS = {asked!r}: " if asked else ""
    backend = asked.partition(",")[0].strip().lower()
    extra = _EXTRAS.get(backend)
    fixes = [f"install the extra (pip install 'wukong-jax[{extra}]')"] if extra else []
    fixes.append("unset JAX_PLATFORMS" if asked else "set JAX_PLATFORMS=cpu")
    missing = f"JAX has no {backend or 'working'} backend here" + (f" ({reason})" if reason else "")
    return f"{named}{missing}; {' or '.join(fixes)}"


def describe_slow_compiler(platform: str, version: str = jax.__version__) -> str:
    """Describes what an old JAX costs on a GPU, in one line; "" if nothing.

    Args:
      platform: platform of the run's devices.
      version: JAX's version.
    """
    major, minor = (int(part) for part in version.split(".")[:2])
    if platform not in _GPU_PLATFORMS or (major, minor) >= _FAST_ON_GPUS:
        return ""
    return (
        f"JAX = {version} compiles atomic additions on GPUs to slow loops (the steps here make none, parts of your own "
        f"may); use Python 3.12 or later with JAX {'.'.join(map(str, _FAST_ON_GPUS))} or later"
    )
