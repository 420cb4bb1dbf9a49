"""Random numbers that depend on nothing but a key and a position: Philox4x32-10 (Salmon et al. 2011).

Position i is word i % 4 of the block of key (seed's low and high half) and counter (i // 4, 0, 0, 0): what
`tl.randint4x(seed, i // 4)` of Triton gives, so that every backend rounds alike. 24 bits make u in [0, 1).
"""

import torch
from torch import Tensor

At = tuple[int, int]  # seed, and position of the first value of a tensor
LOW = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
PIECE = 1 << 14  # counters: the six arrays of a piece stay in the cache


def blocks(seed: int, counters: Tensor) -> Tensor:
    """(n,) int64 counters below 2^32 -> (n, 4) words, int64 in [0, 2^32)."""
    a, b = counters.clone(), torch.zeros_like(counters)
    c, d = b.clone(), b.clone()
    low, high = seed & LOW, seed >> 32 & LOW
    for _ in range(10):
        p, q = a * MULTIPLIERS[0], c * MULTIPLIERS[1]  # wraps around; the 64 bits are right
        a = (q >> 32).bitwise_xor_(b).bitwise_xor_(low).bitwise_and_(LOW)
        c = (p >> 32).bitwise_xor_(d).bitwise_xor_(high).bitwise_and_(LOW)
        b, d = q.bitwise_and_(LOW), p.bitwise_and_(LOW)
        low, high = low + WEYL[0] & LOW, high + WEYL[1] & LOW
    return torch.stack((a, b, c, d), -1)


def uniform(seed: int, first: int, count: int, device: torch.device) -> Tensor:
    """u in [0, 1), fp32, of positions first .. first + count - 1."""
    start, stop = first // 4, -(-(first + count) // 4)
    step = PIECE if device.type == "cpu" else stop - start or 1
    u = torch.empty(stop - start, 4, device=device)
    for low in range(start, stop, step):
        counters = torch.arange(low, min(low + step, stop), device=device)
        u[low - start : low - start + step] = blocks(seed, counters) >> 8
    return u.mul_(2.0**-24).view(-1)[first - 4 * start :][:count]


def uniform_like(x: Tensor, at: At) -> Tensor:
    """u in [0, 1), fp32, for the values of `x` in order."""
    return uniform(*at, x.numel(), x.device).view(x.shape)


def after(at: At | None, values: int) -> At | None:
    """So many values later in a tensor."""
    return None if at is None else (at[0], at[1] + values)
