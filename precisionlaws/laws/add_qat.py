"""δ = k[format] · D^gD · (log₂ G)^gG · N^−gN, nats added by training at low precision
(Chen et al. 2025, arXiv 2505.14302, Eq. 5).

G is the number of values that share a scale; the exponents are those of all formats in the data, k is
each format's own (`k[w4a4]`: weights and activations at 4 bits). Measured at 4 bits in models of 74M to
594M parameters, G from 32 to a channel. Unlike an effective N it grows with D: more data, more damage.
"""

from typing import Any

import numpy as np

from precisionlaws.laws.base import OFF, ROLES, Array, Param, Params, named_formats, off

COLUMNS = ("P_w", "P_a", "P_kv", "G")
LINEAR = ()
CONTINUOUS = False
SETTINGS = ("group", "granularity")  # of a format, which may vary because G says what they do
GROUPS = {"w": "quant.weights", "a": "quant.activations", "kv": "quant.kv"}


def params(x: dict[str, Array]) -> tuple[Param, ...]:
    centre = (("N", "gN", 1), ("D", "gD", -1))
    slope = {"unit": "", "lower": -3.0, "upper": 5.0, "link": "identity", "start": (-0.2, 0.8)}
    formats = [str(name) for name in np.unique(x["format"]) if name]
    if not formats:
        return ()
    G = np.atleast_1d(x["G"])
    out = [
        *(
            Param(name=f"k[{name}]", unit="nats", lower=1e-9, upper=1e9, start=(1e-3, 0.3), centre=centre)
            for name in formats
        ),
        Param(name="gN", **slope),
        Param(name="gD", **slope),
    ]  # fmt: skip
    if len(np.unique(G[np.isfinite(G)])) > 1:  # one group size cannot tell its exponent from k
        out.append(Param(name="gG", **slope))
    return tuple(out)


def penalty(p: Params, N: Any, D: Any, x: dict[str, Array]) -> Any:
    formats = x["format"]
    if np.all(formats == ""):
        return 0.0
    k: Any = np.where(formats == "", 0.0, np.nan)
    for name in np.unique(formats[formats != ""]):
        if f"k[{name}]" not in p:
            known = ", ".join(key for key in p if key.startswith("k["))
            raise ValueError(
                f"add_qat: format {name} was not measured; there are {known or 'none'}"
            )
        k = np.where(formats == name, p[f"k[{name}]"], k)
    G = np.where(np.isfinite(x["G"]), x["G"], 2.0)
    share = np.where(G > 1, np.log2(np.maximum(G, 1.0 + 1e-12)) ** p.get("gG", 0.0), 0.0)
    return k * share * np.exp(p["gD"] * np.log(D) - p["gN"] * np.log(N))


def at(p: Params, x: dict[str, Array], G: float) -> dict[str, Any]:
    """Format and G at the widths of x; the formats that were measured are in p."""
    return {"format": named_formats(x), "G": np.array(G)}


def read(frame: Any, x: dict[str, Array]) -> dict[str, Array]:
    """Format and G of each row; G is a column of that name, or the group of the roles that are quantized."""
    plain = np.logical_and.reduce([off(x[f"P_{role}"]) for role in ROLES])
    if "G" in frame:
        G = np.asarray(frame["G"], float) + 0.0 * x["P_w"]
    else:
        G = _groups(frame, x)
    bad = ~plain & ~(np.isfinite(G) & (G >= 1))
    if np.any(bad):
        raise ValueError(
            "add_qat needs G, the number of values that share a scale, of every run below 16 bits: "
            "a column G, or quant.weights.group with granularity=group"
        )
    return {"G": np.where(plain, np.nan, G), "format": named_formats(x)}


def _groups(frame: Any, x: dict[str, Array]) -> Array:
    G: Any = np.full(np.shape(x["P_w"]), np.nan)
    for role, place in GROUPS.items():
        if f"{place}.group" not in frame:
            continue
        own = np.asarray(frame[f"{place}.group"], float)
        if f"{place}.granularity" in frame:
            own = np.where(np.asarray(frame[f"{place}.granularity"]) == "group", own, np.nan)
        below = np.asarray(x[f"P_{role}"]) < OFF
        if np.any(below & np.isfinite(G) & (own != G)):
            raise ValueError(
                "add_qat has one G for a run, and roles of one run differ in theirs; give a column G"
            )
        G = np.where(below, own, G)
    return G
