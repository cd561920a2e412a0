"""Starts stores of objects on this machine: Google's, by `google_store`, and Amazon's, by moto."""

import contextlib
import importlib.util
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from wukong_jax.clusters.local_processes import find_free_port

_NEEDS = {"gs": ("gcsfs",), "s3": ("s3fs", "moto"), "memory": ()}


@contextlib.contextmanager
def serve_store(kind: str) -> Iterator[str]:
    """Yields the URL of an empty bucket; skips the test if the packages for it are not installed.

    Args:
      kind: "gs", "s3", or "memory" for fsspec's own, which only this process sees.
    """
    missing = [name for name in _NEEDS[kind] if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}: pip install -e .[dev]")
    if kind == "memory":
        import fsspec

        memory = fsspec.filesystem("memory")
        memory.store.clear()
        memory.pseudo_dirs[:] = [""]
        yield "memory://bucket"
        return
    port = find_free_port()
    address = f"http://127.0.0.1:{port}"
    program = [str(Path(__file__).with_name("google_store.py")), str(port)]
    words = program if kind == "gs" else ["-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _list_variables(address).items():
            patch.setenv(name, value)
        quiet = subprocess.DEVNULL
        server = subprocess.Popen([sys.executable, *words], stdin=quiet, stdout=quiet, stderr=quiet)
        try:
            _await(address)
            if kind == "s3":
                urllib.request.urlopen(urllib.request.Request(f"{address}/bucket", method="PUT")).close()
            _forget_connections()
            yield f"{kind}://bucket"
        finally:
            server.kill()
            server.wait()


def _list_variables(address: str) -> dict[str, str]:
    return {
        "STORAGE_EMULATOR_HOST": address,  # gcsfs and google-cloud-storage
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # asks Google's own servers
        "GOOGLE_CLOUD_PROJECT": "none",
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def _await(address: str) -> None:
    end = time.monotonic() + 60.0
    while True:
        try:
            urllib.request.urlopen(f"{address}/storage/v1/b/bucket").close()
        except urllib.error.HTTPError:
            return
        except OSError:
            assert time.monotonic() < end, "the server did not start"
            time.sleep(0.1)
        else:
            return


def _forget_connections() -> None:
    """Drops the connections that fsspec and etils keep, of a test before with a server on another port."""
    from etils.epath import backend

    backend.fsspec_backend._get_filesystem.cache_clear()
    for name in ("gcsfs", "s3fs"):
        if name in sys.modules:
            module = sys.modules[name]
            for kind in ("GCSFileSystem", "S3FileSystem"):
                if hasattr(module, kind):
                    getattr(module, kind).clear_instance_cache()
