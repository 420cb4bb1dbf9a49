"""GPTQ: inputs are rounded one after the other, each after it has taken over the errors of those before.

Frantar et al. 2023 (arXiv:2210.17323) minimise tr(E H Eᵀ), E = W - Ŵ, H the mean of x xᵀ over calibration
inputs. We compute it in the form of Chee et al. 2023 (LDLQ, arXiv:2307.13304, Theorem 6), which gives the
same codes without the inverse of H: with H + λI = R D Rᵀ, R upper triangular with ones on its diagonal,

    Ŵ_k = round(T_k),   T_k = W_k + Σ_{j<k} E_j R_jk,   tr(E (H + λI) Eᵀ) = Σ_k D_k |T_k - Ŵ_k|²

so one Cholesky factorization, of H in reverse order, is all the linear algebra. λ is `percdamp` of H's
mean diagonal, raised tenfold until the factorization exists. `act_order` takes large H_kk first.

An input that calibration never saw is rounded to nearest; the authors' code sets its weights to zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from precisionlaws.config import ConfigError, ranged
from precisionlaws.ptq.base import Calibrated, Quantized
from precisionlaws.ptq.scalar import Scalar

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from precisionlaws.ptq.grids import Grid
    from precisionlaws.ptq.ldlq import Factor, Solved


@dataclass(frozen=True, kw_only=True)
class Gptq(Scalar, Calibrated):
    SHORT: ClassVar[str] = "gptq"
    act_order: bool
    static_groups: bool  # scales of groups from W as it was; false: from W with the errors so far
    percdamp: float = ranged(0, 1)  # share of the mean of H's diagonal that is added to it

    def rules(self) -> None:
        super().rules()
        if self.act_order and self.granularity == "group" and not self.static_groups:
            raise ConfigError(
                "static_groups must be true with act_order, got false: "
                "a group's inputs do not follow each other then"
            )

    def inactive(self) -> set[str]:
        return super().inactive() | (set() if self.granularity == "group" else {"static_groups"})

    def quantize(
        self, W: "Tensor", H: "Tensor | None" = None, generator: "Generator | None" = None
    ) -> Quantized:
        """Raises: ConfigError if H cannot be factored or a scale does not fit `scale_dtype`."""
        from precisionlaws.ptq import ldlq

        self.check(W.shape)
        assert H is not None  # application.check
        groups = self.grouped(W)
        x, start = groups.view(W.shape), self.fit(groups)
        grid = by_input(start, len(W))
        order = self.order(H)
        members = (order // (W.shape[1] // len(grid.scale))).tolist()
        refit = self.refit if self.granularity == "group" and not self.static_groups else None
        factor = ldlq.factorize(H[order][:, order] if self.act_order else H, self.percdamp, x.dtype)
        inputs = x.T[order] if self.act_order else x.T.contiguous()
        solved = ldlq.solve(inputs, factor.L, grid, members, refit)
        codes = solved.codes[order.argsort()] if self.act_order else solved.codes
        codes = codes.T.reshape(groups.shape)
        end = grid.map(lambda t: t.T.reshape(-1, 1)) if refit else start
        nearest = (start.codes(groups) * start.scale).view(W.shape)
        return self.quantized(codes, end, W, report(solved, factor, x, nearest, H))

    def order(self, H: "Tensor") -> "Tensor":
        import torch

        if self.act_order:
            return H.diagonal().argsort(descending=True, stable=True)
        return torch.arange(len(H), device=H.device)

    def refit(self, inputs: "Tensor") -> "Grid":
        """(group, out) -> grid (1, out)"""
        return self.fit(inputs.T.contiguous()).map(lambda t: t.T)


def by_input(grid: "Grid", rows: int) -> "Grid":
    """(groups of a matrix, 1) -> (groups of a row, rows)"""
    per_row = max(1, len(grid.scale) // rows)
    return grid.map(lambda t: t.view(-1, per_row).expand(rows, per_row).T.contiguous())


def report(
    solved: "Solved", factor: "Factor", W: "Tensor", nearest: "Tensor", H: "Tensor"
) -> Mapping[str, Any]:
    """Relative proxies tr(E H Eᵀ) / tr(W H Wᵀ) with H as it is, without damping."""
    from precisionlaws.ptq.ldlq import proxy

    # The loop knows its damped proxy already, so E H Eᵀ need not be computed.
    reached = max(0.0, (factor.D @ solved.errors).item() - factor.added * solved.moved)
    H = H.to(W.dtype)
    whole, of_rtn = proxy(W, H) or 1.0, proxy(nearest - W, H)
    info: dict[str, Any] = {
        "relative_proxy": reached / whole,
        "relative_proxy_rtn": of_rtn / whole,
        "damping": factor.damping,
    }
    if reached > of_rtn:
        info["warning"] = (
            "worse than rounding to nearest: more calibration tokens or damping may help"
        )
    return info
