"""What a process does about its memory once it has started.

Two things that a start leaves behind cost a sidecar for as long as it lives: free memory that the
allocator keeps (compiling the redis package alone takes 16 MB, where no bytecode is cached), and a
few hundred thousand objects that will never be garbage, which each full collection would look at
again, for tens of milliseconds, while checks wait.
"""

import ctypes
import gc


def settle() -> None:
    """Call it when everything is loaded, in a process of its own."""
    gc.collect()
    gc.freeze()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # glibc only (malloc_trim(3))
    except (OSError, AttributeError):
        return
