"""Configures the C memory allocator for training on CPU."""

import ctypes
import sys

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Makes glibc keep freed memory for the next allocation instead of returning it to the system.

    A train step on CPU allocates and frees the same temporaries every time. By default the large ones are
    returned to the system, and every step pays for their page faults again (measured in docs/performance.md).
    Call this before the first computation. The process's memory then stays at its peak.

    Returns:
      Whether the setting took effect; False on systems without glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
