"""Freed memory is kept for the next step.

A training step frees the tensors that the next one allocates again. glibc gives large ones back to the
system in between, and pages that come anew are zeroed and mapped one by one: 2 to 3% of a step of a model
of 1M parameters on a CPU, more where the system is virtual. Arithmetic is untouched.
"""

import ctypes
import sys

TRIM, MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h
MOST = 2**31 - 1  # bytes: what fits its argument


def keep() -> bool:
    """From now on, in this process; for those that do nothing but train. False where there is no glibc."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # (Other C libraries have the function, and ignore it; or they lack it.)
    return mallopt is not None and bool(mallopt(MMAP, 2**30) and mallopt(TRIM, MOST))
