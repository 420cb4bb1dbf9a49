"""What a training run costs: FLOP-equivalents C = 6 N D c(P), where c(16) = 1.

paper  c = P/16: weights, activations and KV cache all at P bits on hardware whose speed grows as 1/P
       (Kumar et al. 2024, Section 4.3).
flat   c = 1: fake quantization on 16-bit hardware, or weight-only training, saves nothing.
"""

from collections.abc import Callable, Mapping
from typing import Any

FLOPS_PER_TOKEN = 6.0  # per parameter, forward and backward

COSTS: Mapping[str, Callable[[Any], Any]] = {
    "paper": lambda P: P / 16.0,
    "flat": lambda P: P * 0.0 + 1.0,
}


def relative_cost(name: str) -> Callable[[Any], Any]:
    """c(P) by name."""
    if name not in COSTS:
        raise ValueError(f"cost must be one of {', '.join(COSTS)}, got {name!r}")
    return COSTS[name]
