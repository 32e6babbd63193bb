"""How memory is handled: by the C library in a process that streams large buffers, by Python in one that serves."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_KEPT_BYTES, _BUFFER_BYTES = 64 << 20, 8 << 20


def keep_buffers() -> None:
    """Freed buffers of up to 8 MiB are kept for the next ones (64 MiB of them at most in an arena).

    Else glibc gives each back to the system, which makes a page fault of every 4 KiB of the next one: three quarters
    of the system time of streaming a file. Does nothing where the C library has no `mallopt`.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, _BUFFER_BYTES)
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)


def spare_collections() -> None:
    """Call it when all is imported and made that stays: the garbage collector looks at none of it any more.

    A full collection of a control plane takes 150 ms, in which every thread stands still. What requests make is freed
    without it, nearly all; so collections are rarer too.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
