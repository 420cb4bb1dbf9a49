"""What methods computed when their results were first stored: another number needs a new `NUMERICS`.

A point of a store is named by run, method, calibration and this version, so that old results are never
taken for those of new code. In float64, so that machines agree on every code.
"""

from dataclasses import fields, replace
from typing import Any, ClassVar

import pytest
import torch

from precisionlaws import ptq
from precisionlaws.ptq.application import CONF, method_of
from precisionlaws.ptq.base import eval_id
from precisionlaws.ptq.rtn import Rtn

FROZEN = {
    ("rtn", 1): 0.025480676,
    ("gptq", 1): 0.012524352,
    ("awq", 1): 0.011696097,
    ("quip", 1): 0.017570009,  # and the stream of torch, from which its payload is decoded too
    ("quip_sharp", 1): 0.014662369,
}
SCALAR = {"rtn", "gptq", "awq"}


def problem() -> tuple[torch.Tensor, torch.Tensor]:
    """Without random numbers of torch, whose streams are not promised: sines of whole numbers."""
    i, j = torch.arange(48.0, dtype=torch.float64), torch.arange(64.0, dtype=torch.float64)
    W = torch.sin(1 + 7.3 * i.unsqueeze(1) * i.unsqueeze(1) + 3.1 * j * (1 + i.unsqueeze(1)))
    k = torch.arange(200.0, dtype=torch.float64).unsqueeze(1)
    X = torch.sin(2 + 1.7 * k * j + k * k) * (1 + j).rsqrt() + 0.3 * torch.sin(k)
    return W / 8, X.T @ X / len(X)


def test_every_method_is_frozen() -> None:
    assert {name for name, _ in FROZEN} == {p.stem for p in CONF.glob("*.yaml")} - {"none"}


@pytest.mark.parametrize(("name", "version"), list(FROZEN))
def test_results_are_those_of_this_version(name: str, version: int) -> None:
    W, H = problem()
    options: dict[str, Any] = {"granularity": "group", "group": 16} if name in SCALAR else {}
    q = ptq.apply(name, W, H, bits=3, **options)
    E = q.weight - W
    proxy = (((E @ H) * E).sum() / ((W @ H) * W).sum()).item()
    assert version == method_of(name).NUMERICS
    assert proxy == pytest.approx(FROZEN[name, version], rel=1e-4)


def test_a_version_names_other_points() -> None:
    class Newer(Rtn):
        NUMERICS: ClassVar[int] = 2

    old = method_of("rtn")
    assert isinstance(old, Rtn)
    new = Newer(**{f.name: getattr(old, f.name) for f in fields(old)})
    assert eval_id(replace(old)) == eval_id(old) != eval_id(new)
