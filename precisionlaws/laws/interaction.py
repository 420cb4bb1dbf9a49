"""N_eff = N · ∏_x eff_x · κ[w4a4kv4]: one factor κ for each format that quantizes two or three roles at once.

κ = 1 is the product law of Kumar et al. 2024 (arXiv 2411.04330, Eq. 4); ln κ is what ln eff of the joint
format differs by from the sum of those of its roles. Given beside a scale of single roles, such as
neff_free, and only to formats each of whose parts was also trained alone: elsewhere κ is not told from
the efficiencies themselves, and the product law is taken. Between trained widths κ is 1.
"""

import re
from typing import Any

import numpy as np

from precisionlaws.laws.base import OFF, ROLES, Array, Param, Params, named_formats

COLUMNS = ("P_w", "P_a", "P_kv")
ON = "N"
CONTINUOUS = False
BESIDE = True


def params(x: dict[str, Array]) -> tuple[Param, ...]:
    found, single = joint(x)
    if not found:
        raise ValueError(
            "no run quantizes two roles at once: there is no interaction to fit; "
            "sweep e.g. weights, activations and KV cache each alone and together"
        )
    known = tuple(name for name in found if not found[name])
    if not known:
        name, lacking = next(iter(found.items()))
        raise ValueError(
            f"no joint format has all its parts trained alone ({name} lacks {', '.join(lacking)}; alone there are "
            f"{', '.join(single) or 'none'}): an interaction is not told from the efficiencies"
        )
    return tuple(
        Param(name=f"kappa[{name}]", unit="N_eff/product", lower=1e-3, upper=1e3, start=(0.5, 2.0))
        for name in known
    )


def scale(p: Params, x: dict[str, Array]) -> Any:
    out: Any = 1.0
    for name, here in _where(p, x).items():
        out = np.where(here, p[name], 1.0) * out
    return out


def slopes(p: Params, x: dict[str, Array]) -> dict[str, Any]:
    """d ln scale / d ln κ: 1 where the row has that format."""
    return {name: np.where(here, 1.0, 0.0) for name, here in _where(p, x).items()}


def _where(p: Params, x: dict[str, Array]) -> dict[str, Array]:
    """Rows of each κ."""
    out = {}
    for name in (k for k in p if k.startswith("kappa[")):
        bits = parts(name[len("kappa[") : -1])
        here = np.array(True)
        for role in ROLES:
            here = here & (np.minimum(np.real(x[f"P_{role}"]), OFF) == bits.get(role, OFF))
        out[name] = here
    return out


def notes(x: dict[str, Array]) -> tuple[str, ...]:
    """What the data cannot say about this term."""
    return tuple(
        f"{name}: {', '.join(lacking)} never trained alone, the product law is taken for it"
        for name, lacking in joint(x)[0].items()
        if lacking
    )


def joint(x: dict[str, Array]) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Joint formats, each with those of its parts that were never trained alone; and the formats trained alone."""
    names = np.unique(named_formats(x)).tolist()
    single = tuple(name for name in names if len(parts(name)) == 1)
    return {
        name: tuple(part for part in alone(name) if part not in single)
        for name in names
        if len(parts(name)) > 1
    }, single


def alone(name: str) -> tuple[str, ...]:
    """The formats of its roles: w4a4 → w4, a4."""
    return tuple(f"{r}{b:g}" for r, b in parts(name).items())


def parts(name: str) -> dict[str, float]:
    """Bits by role of a format, as `named_formats` names it: w4a4kv4 → {"w": 4, "a": 4, "kv": 4}."""
    return {r: float(b) for r, b in re.findall(r"(w|a|kv)(\d+(?:\.\d+)?)", name)}
