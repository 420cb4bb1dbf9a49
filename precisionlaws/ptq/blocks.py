"""LDLQ by blocks of inputs, and passes that improve its result: for weights that are rounded to vectors.

As in ldlq.py everything is transposed, W (in, out), and errors are passed on from the first input to the
last. With H = Lᵀ D L, L the identity and D anything in blocks on the diagonal (Tseng et al. 2024,
arXiv:2402.04396, section 4), block k is rounded as W_k + Σ_{j<k} L_kj E_j, and tr(Eᵀ H E) is the sum of
D_k over what rounding does to these targets.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from precisionlaws.ptq import grids
from precisionlaws.ptq.base import Quantized, bits_of
from precisionlaws.ptq.ldlq import proxy

ENOUGH = 1e-3  # of the proxy: a pass that gains less is the last


def by_blocks(L: Tensor, size: int) -> Tensor:
    """L with ones on its diagonal -> that with identities of `size`, for the same H."""
    rows = L.reshape(-1, size, len(L))
    own = blocks_of(L, size)
    solved = torch.linalg.solve_triangular(own, rows, upper=False, unitriangular=True)
    return solved.reshape(L.shape)


def others(H: Tensor, size: int) -> Tensor:
    """F (in, in) for which W_k + (F E)_k is the best place of block k while the errors of others stay.

    With E_k free, tr(Eᵀ H E) is least at E_k = -(H_kk)⁻¹ Σ_{j≠k} H_kj E_j.
    """
    rows = H.reshape(-1, size, len(H))
    F = torch.linalg.solve(blocks_of(H, size), rows).contiguous()
    F.view(-1, size, len(H) // size, size).diagonal(dim1=0, dim2=2).zero_()
    return F.view(H.shape)


def blocks_of(H: Tensor, size: int) -> Tensor:
    """(n, n) -> the blocks on its diagonal (n / size, size, size)"""
    return H.reshape(-1, size, len(H) // size, size).diagonal(dim1=0, dim2=2).permute(2, 0, 1)


def feed(
    W: Tensor, F: Tensor, E: Tensor, size: int, round: Callable[[int, Tensor], Tensor]
) -> None:
    """Round W (in, out) by blocks of `size` inputs, each after it has taken over what F passes on.

    round(k, T) is Ŵ of block k for its target T = W + F E (size, out). E (in, out) = W - Ŵ is updated. With
    F = L - I of `by_blocks` and E = 0 this is LDLQ; with `others` of H it improves an Ŵ that is there.
    """
    for k, (w, f, e) in enumerate(zip(W.split(size), F.split(size), E.split(size), strict=True)):
        torch.sub(w, round(k, torch.addmm(w, f, E)), out=e)


def improve(
    W: Tensor,
    H: Tensor,
    damping: float,
    passes: int,
    size: int,
    round: Callable[[int, Tensor, Tensor], Tensor],
    state: Sequence[Tensor],
) -> int:
    """Up to `passes` over all blocks while they lower tr(Eᵀ H E); returns how many were kept.

    round(k, T, H_kk) is Ŵ of block k, no worse than the present one under H_kk. state: E and what else
    `round` writes; it is put back if a pass was for nothing. Blocks move under H with `damping` of its mean
    diagonal added, which finds lower places of H itself than that does.
    """
    E, damped = state[0], H.clone()
    damped.diagonal().add_(damping * H.diagonal().mean())
    if not damped.diagonal().min() > 0:
        return 0  # no input was ever seen
    F, own = (f(damped, size).to(W.dtype) for f in (others, blocks_of))
    best = proxy(E.T, H)
    for done in range(passes):
        before = [t.clone() for t in state]
        feed(W, F, E, size, lambda k, T: round(k, T, own[k]))
        now = proxy(E.T, H)
        if now >= best:
            for t, old in zip(state, before, strict=True):
                t.copy_(old)
            return done
        if now > best * (1 - ENOUGH):
            return done + 1
        best = now
    return passes


def quantized(
    W: Tensor,
    weight: Tensor,
    H: Tensor,
    bits: int,
    payload: Mapping[str, Tensor],
    info: Mapping[str, Any],
) -> Quantized:
    """`weight`, what `payload` decodes to, with what it stores and how near it is to W under H."""
    weight = weight.to(W)
    info = dict(info) | report(W, weight, H, bits)
    return Quantized(weight, payload, bits_of(payload, bits, W.numel()), info)


def report(W: Tensor, weight: Tensor, H: Tensor, bits: int) -> dict[str, Any]:
    """Relative proxies of a result, and of rounding to nearest on rows with all 2^b codes."""
    W = W.double()
    grid = grids.fit(W, "full", bits, False, torch.float32)
    nearest = grid.codes(W) * grid.scale
    whole = proxy(W, H) or 1.0
    of, of_rtn = (proxy(Q.double() - W, H) / whole for Q in (weight, nearest))
    info: dict[str, Any] = {"relative_proxy": of, "relative_proxy_rtn": of_rtn}
    if of > of_rtn:
        info["warning"] = (
            "worse than rounding to nearest: more calibration tokens or damping may help"
        )
    return info
