"""What the interpreter and the C library are told about the memory of a process that runs for weeks."""

import ctypes
import gc
from typing import Final

# Containers made and not freed: what some hundred commands under way hold, and CPython's 700 do not.
_GC_THRESHOLD: Final = 20_000

# As glibc numbers them in malloc.h.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = (
    64 * 1024 * 1024
)  # three answers of a broker to one who reads a whole stream, and what is made of them
_LARGEST_KEPT_BYTES: Final = 32 * 1024 * 1024  # glibc takes no more


def leave_what_stays_to_itself() -> None:
    """Keep the garbage collector from walking all that was loaded for good, again and again: a fifth of the CPU under load."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 20, 20)


def keep_freed_memory() -> None:
    """Let the C library use the memory of large buffers again, up to 64 MB of it, rather than give it back and have each page zeroed anew.

    A twentieth of the CPU of reading a stream in fetches of megabytes. Changes nothing where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
