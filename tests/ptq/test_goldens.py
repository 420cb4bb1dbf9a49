"""Beside the results of the published code, at no more bits: RTN, GPTQ and AWQ no worse than 1.02 times,
QuIP and QuIP#, which draw rotations, no worse than 1.05 times over three seeds."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from precisionlaws import ptq

MOST = 1.02
MOST_RANDOM = 1.05
GRID = {"sym": "full", "asym": "asymmetric"}


def options(method: str, variant: str) -> dict[str, Any]:
    """'asym_mse_g128_act_static' -> ours; g-1 is a row."""
    kind, *words = variant.split("_")
    group = next(int(w[1:]) for w in words if w.startswith("g"))
    out: dict[str, Any] = {
        "grid": GRID.get(kind, "asymmetric"),
        "range": "mse" if "mse" in words else "absmax",
        "granularity": "row" if group < 0 else "group",
        "group": max(group, 1),
    }
    if method == "gptq":
        out |= {"act_order": "act" in words, "static_groups": "static" in words}
    if method == "awq":
        out |= {"scale": kind == "scale", "clip": "clip" in words}
    return out


def problems(goldens: Path) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
    """Weights by name, H, and rounded matrices that the published code returned."""
    path = goldens / "ptq_goldens.npz"
    if not path.exists():
        pytest.skip(f"no {path.name} in {goldens}")
    with np.load(path) as arrays:
        X = torch.from_numpy(arrays["X"]).double()
        names = [k for k in arrays if k.startswith(("W_", "What_"))]
        found = {k: torch.from_numpy(arrays[k]).float() for k in names}
    weights = {k[2:]: v for k, v in found.items() if k.startswith("W_")}
    return weights, X.T @ X / len(X), {k[5:]: v for k, v in found.items() if k.startswith("What_")}


def rows(goldens: Path, method: str) -> Iterator[dict[str, Any]]:
    every = json.loads((goldens / "ptq_goldens.json").read_text())["results"]
    return (r for r in every if r["method"] == method)


def relative_proxy(Q: Tensor, W: Tensor, H: Tensor) -> float:
    E, W = Q.double() - W.double(), W.double()
    return ((E @ H * E).sum() / (W @ H * W).sum()).item()


@pytest.mark.golden
@pytest.mark.parametrize("method", ["rtn", "gptq", "awq"])
def test_no_worse_than_the_published_code(goldens: Path, method: str) -> None:
    weights, H, _ = problems(goldens)
    bad, count = [], 0
    for row in rows(goldens, method):
        if row["W"] not in weights:
            continue
        W, chosen = weights[row["W"]], options(method, row["variant"])
        q = ptq.apply(method, W, H, bits=row["bits"], **chosen)
        ratio = relative_proxy(q.weight, W, H) / row["proxy_mean"]
        name = f"{row['W']} {row['variant']} {row['bits']}"
        if ratio > MOST or q.bits.effective > row["bpw"] + 1e-5:
            bad.append(f"{name}: {ratio:.4f} at {q.bits.effective:.4f} of {row['bpw']} bits")
        if method != "rtn":
            assert q.info["relative_proxy"] < q.info["relative_proxy_rtn"], name
            assert "warning" not in q.info
        count += 1
    assert count
    assert not bad, "\n".join(bad)


def quip_options(variant: str) -> dict[str, Any]:
    """'ldlqRG_np5_incoh1', 'e8p_rvq_tune10_scale1.03' -> ours. Theirs without feedback have none of ours."""
    count = next(
        int(n[1]) for w in variant.split("_") if (n := re.fullmatch(r"(?:np|tune)(\d+)", w))
    )
    return {"passes": count}


@pytest.mark.golden
@pytest.mark.parametrize(("method", "name"), [("quip", "quip"), ("quip#", "quip_sharp")])
def test_three_seeds_are_no_worse_than_the_published_code(
    goldens: Path, method: str, name: str
) -> None:
    weights, H, _ = problems(goldens)
    bad, means = [], {}
    for row in rows(goldens, method):
        if row["W"] not in weights:
            continue
        W, chosen = weights[row["W"]], quip_options(row["variant"])
        key = row["W"], row["bits"], chosen["passes"]
        if key not in means:
            found = [ptq.apply(name, W, H, bits=row["bits"], seed=s, **chosen) for s in range(3)]
            mean = sum(relative_proxy(q.weight, W, H) for q in found) / 3
            means[key] = mean, found[0].bits.effective
        mean, bits = means[key]
        ratio = mean / row["proxy_mean"]
        if ratio > MOST_RANDOM or bits > row["bpw"] + 1e-5:
            bad.append(f"{row['W']} {row['variant']} {row['bits']}: {ratio:.4f} at {bits:.4f} bits")
    assert means
    assert not bad, "\n".join(bad)
    if method == "quip#":  # rotations leave nothing of heavy tails
        for (kind, bits, passes), (mean, _) in means.items():
            if kind == "heavy":
                assert abs(mean / means["gauss", bits, passes][0] - 1) < 0.1


@pytest.mark.golden
def test_codes_are_those_of_the_published_code(goldens: Path) -> None:
    """Scales there are float32, ours float16 as stored: nearly all weights agree, not all."""
    weights, H, rounded = problems(goldens)
    theirs = {k: v for k, v in rounded.items() if k.startswith("gptq_")}
    if not theirs:
        pytest.skip("no rounded matrix of GPTQ in the reference vectors")
    for name, Q in theirs.items():
        _, *variant, weight, bits = name.split("_")
        W, chosen = weights[weight], options("gptq", "_".join(variant))
        q = ptq.apply("gptq", W, H, bits=int(bits[:-1]), scale_dtype="float32", **chosen)
        step = W.std()
        assert ((q.weight - Q).abs() < 0.01 * step).float().mean() > 0.97
