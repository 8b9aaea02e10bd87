"""Lets a process keep the memory of large arrays that it will want again; knows no array.

Dask's nannies start workers with ``MALLOC_TRIM_THRESHOLD_=65536``. That also stops glibc from raising, as it otherwise does, the
size above which it maps each block anew: every activation of a network is then given back to the kernel and faulted in again, page
by page, which takes as long as the arithmetic.
"""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of glibc's settings, malloc.h."""
MAPPED_BYTES = 32 << 20
"""Blocks from this size on are still mapped one by one: the most that glibc takes, and that its own adjustment reaches."""
KEPT_BYTES = 256 << 20
"""What a heap may hold free at its end before it is given back."""


def keep_freed_memory() -> bool:
    """Whether this process now keeps freed blocks for the next ones; False where its allocator has no such settings.

    Blocks of less than 32 MiB are reused, and up to 256 MiB at the end of a heap stay with the process. It holds whatever the
    environment says, may be called again, and changes no number.

    References
    ----------
    mallopt(3); `distributed.nanny.pre-spawn-environ` in Dask's configuration.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        # macOS, Windows and musl have allocators of their own
        return False
    return all(
        mallopt(name, size) == 1 for name, size in ((M_MMAP_THRESHOLD, MAPPED_BYTES), (M_TRIM_THRESHOLD, KEPT_BYTES))
    )
