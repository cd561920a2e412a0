"""The C allocator's settings for training on CPU."""

import ctypes
import sys

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory for the next allocation instead of giving it back to the system.

    A train step on CPU allocates and frees the same temporaries every time; by default the large ones go
    back to the system, and each step pays for their pages again (docs/performance.md has the measurement).
    Call it before the first computation. The process's memory then stays at its peak.

    Returns:
      Whether there is a glibc to tell; elsewhere nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
