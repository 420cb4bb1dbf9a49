"""Which code computes the attention of training steps, and what it keeps in memory. No torch here.

"sdpa" is torch's own, for whatever device; "blocks" that of models/blocked.py, for a CPU. They differ in rounding, so
a row records the choice.
"""

from precisionlaws.config import ConfigError

SHORTEST, LONGEST = 129, 512  # tokens: below blocks are no faster, beyond they keep too much
BLOCK = 32  # queries


def kernel_of(wanted: str, context: int, dtype: str, device: str, compile: bool = False) -> str:
    """What `exec.attention` comes to: "sdpa" or "blocks".

    Raises: ConfigError where blocks are asked for and cannot be had.
    """
    able = device == "cpu" and not compile and dtype in ("float32", "float64")
    if wanted == "blocks" and not able:
        here = f"device={device}, compile={str(compile).lower()}, dtype={dtype}"
        raise ConfigError(
            f"exec.attention=blocks is for float32 or float64 on a CPU, not compiled; here is {here}"
        )
    if wanted != "auto":
        return wanted
    pays = able and dtype == "float32" and SHORTEST <= context <= LONGEST
    return "blocks" if pays else "sdpa"


def scores_kept(kernel: str, context: int) -> float:
    """Per token and head, for the backward pass: blocks keep those that causality leaves."""
    return (context + BLOCK) / 2 if kernel == "blocks" else 0.0
