"""Where training steps take parts of our own in place of torch's, because they were measured to be faster there.

(RMSNorm, rotations and unit vectors always are.) Their rounding differs from torch's, so a row records which were taken (`exec.parts`). No torch here.
"""

BLOCKS = "blocks"  # causal attention in blocks of queries: models/blocked.py
GELU = "gelu"  # of one sigmoid: models/parts.py
TORCH = "torch"  # none

SHORTEST, LONGEST = 129, 512  # tokens: below blocks are no faster, beyond they keep too much
BLOCK = 32  # queries


def taken(possible: tuple[str, ...], context: int) -> str:
    """Those of the `possible` ones that pay with one thread of a CPU in float32: "blocks gelu", or "torch"."""
    paying = [p for p in possible if p != BLOCKS or SHORTEST <= context <= LONGEST]
    return " ".join(paying) or TORCH


def scores_kept(parts: str, context: int) -> float:
    """Per token and head, for the backward pass: blocks keep those that causality leaves."""
    return (context + BLOCK) / 2 if BLOCKS in parts.split() else 0.0
