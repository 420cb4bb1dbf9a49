"""D_eff = D · ∏_x effD_x[P_x]: one efficiency on the data for each role and width that was trained
(Castro et al. 2025, arXiv 2505.14669, where the backward pass costs data and the forward pass parameters).

Beside neff_free it asks whether bits cost parameters or tokens, which needs a crossed N × D grid: at
one D/N the two cannot be told apart.
"""

from typing import Any

from precisionlaws.laws import neff_free
from precisionlaws.laws.base import Array, Param, Params

COLUMNS = neff_free.COLUMNS
ON = "D"
CONTINUOUS = False
STEM = "effD"


def params(x: dict[str, Array]) -> tuple[Param, ...]:
    return neff_free.params(x, STEM, "D_eff/D")


def scale(p: Params, x: dict[str, Array]) -> Any:
    return neff_free.scale(p, x, STEM)


def slopes(p: Params, x: dict[str, Array]) -> dict[str, Any]:
    """d ln scale / d ln of each efficiency."""
    return neff_free.slopes(p, x, STEM)


def domain(p: Params, x: dict[str, Array]) -> str:
    """Which width has no efficiency."""
    return neff_free.domain(p, x, STEM)


def notes(x: dict[str, Array]) -> tuple[str, ...]:
    """What the data cannot say about this term."""
    return neff_free.notes(x, STEM, "B")
