"""How the C library handles memory of a process that streams large buffers."""

from __future__ import annotations

import ctypes
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
