"""Memory that the allocator keeps for later although nobody uses it."""

import ctypes
import sys

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_trim = getattr(_libc, "malloc_trim", None)


def give_back() -> None:
    """Return free memory to the system, where the C library can (glibc): the buffers of a burst, mostly.

    Takes some milliseconds, in which nothing else runs.
    """
    if _trim is not None:
        _trim(0)
