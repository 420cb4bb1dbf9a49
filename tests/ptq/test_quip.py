"""QuIP and QuIP#: what their mathematics promises, each against the other methods and itself."""

from typing import Any

import pytest
import torch
from torch import Tensor

from precisionlaws import ptq
from precisionlaws.config import ConfigError
from precisionlaws.ptq.application import method_of
from precisionlaws.ptq.base import Quantized

BOTH = ["quip", "quip_sharp"]


def problem(out: int = 32, width: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """W, and H of inputs of unequal power in random directions."""
    g = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(width, width, generator=g, dtype=torch.float64)).Q
    power = 1 / torch.arange(1, width + 1, dtype=torch.float64)
    x = torch.randn(3 * width, width, generator=g, dtype=torch.float64) * power.sqrt() @ basis.T
    return torch.randn(out, width, generator=g) / 8, x.T @ x / len(x)


def proxy(q: Quantized, W: Tensor, H: Tensor) -> float:
    E = q.weight.double() - W.double()
    return ((E @ H * E).sum() / (W.double() @ H * W.double()).sum()).item()


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("bits", range(2, 9))
def test_payload_and_damage(name: str, bits: int) -> None:
    W, H = problem()
    q = ptq.apply(name, W, H, bits=bits)
    assert torch.equal(method_of(name, bits=bits).decode(q.payload, W.shape), q.weight)
    assert q.info["relative_proxy"] == pytest.approx(proxy(q, W, H), rel=1e-9)
    # At many bits a scale per row, which RTN stores, fits narrow matrices better than one for all.
    most = 0.6 if bits <= 3 else 1.15
    assert q.info["relative_proxy"] < most * q.info["relative_proxy_rtn"]
    worse = q.info["relative_proxy"] > q.info["relative_proxy_rtn"]
    assert ("warning" in q.info) == worse
    assert q.bits.parts["codes"] == bits == q.bits.nominal


@pytest.mark.parametrize(
    ("name", "more"),
    [("quip", 16 + 64 + 8 * 64), ("quip_sharp", 16 + 64 + 32)],
)
def test_what_is_stored_beside_codes(name: str, more: int) -> None:
    W, H = problem()
    q = ptq.apply(name, W, H)
    assert q.bits.effective == q.bits.nominal + more / W.numel()


@pytest.mark.parametrize("name", BOTH)
def test_random_numbers_are_those_of_the_seed(name: str) -> None:
    W, H = problem()
    first, again, other = (ptq.apply(name, W, H, seed=s) for s in (1, 1, 2))
    assert torch.equal(first.weight, again.weight)
    assert all(torch.equal(first.payload[k], again.payload[k]) for k in first.payload)
    assert not torch.equal(first.weight, other.weight)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("passes", [0, 1, 10])
def test_passes_never_make_it_worse(name: str, passes: int) -> None:
    for bits in (2, 4):
        W, H = problem()
        q = ptq.apply(name, W, H, bits=bits, passes=passes)
        before = ptq.apply(name, W, H, bits=bits, passes=0)
        assert q.info["passes"] <= passes
        assert proxy(q, W, H) <= proxy(before, W, H) * (1 + 1e-5)


@pytest.mark.parametrize("name", BOTH)
def test_outliers_make_no_difference(name: str) -> None:
    """Weights of a heavy-tailed density are after rotation what normal ones are."""
    normal, H = problem(64, 128)
    g = torch.Generator().manual_seed(5)
    chi = torch.randn(3, 64, 128, generator=g).square().mean(0).sqrt()
    heavy = torch.randn(64, 128, generator=g) / chi
    of = {
        kind: sum(proxy(ptq.apply(name, W, H, bits=3, seed=s), W, H) for s in range(2))
        for kind, W in (("normal", normal), ("heavy", heavy))
    }
    rtn = {kind: proxy(ptq.apply("rtn", W, bits=3), W, H) for kind, W in
           (("normal", normal), ("heavy", heavy))}  # fmt: skip
    assert abs(of["heavy"] / of["normal"] - 1) < 0.15
    assert rtn["heavy"] > 2 * rtn["normal"]


@pytest.mark.parametrize("name", BOTH)
def test_a_scale_of_W_or_of_H_is_without_effect(name: str) -> None:
    W, H = problem()
    q = ptq.apply(name, W, H)
    assert torch.equal(ptq.apply(name, 1024 * W, H).weight, 1024 * q.weight)
    assert torch.equal(ptq.apply(name, W, 4 * H).weight, q.weight)
    assert torch.equal(ptq.apply(name, W * 2.0**-70, H).weight, q.weight * 2.0**-70)


@pytest.mark.parametrize("name", BOTH)
def test_zeros_stay_zeros(name: str) -> None:
    _, H = problem()
    for of in (H, torch.zeros_like(H)):
        assert torch.equal(ptq.apply(name, torch.zeros(32, 64), of).weight, torch.zeros(32, 64))


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(name: str, dtype: torch.dtype) -> None:
    W, H = problem()
    q = ptq.apply(name, W.to(dtype), H.float())
    assert q.weight.dtype == dtype
    assert torch.equal(method_of(name).decode(q.payload, W.shape).to(dtype), q.weight)


def test_methods_in_the_order_of_their_papers() -> None:
    """Damage at 2 bits: rounding to nearest > GPTQ > QuIP > QuIP#, by more than chance."""
    of: dict[str, float] = dict.fromkeys(["rtn", "gptq", "quip", "quip_sharp"], 0.0)
    for seed in range(2):
        W, H = problem(96, 128, seed)
        for name in of:
            more: dict[str, Any] = {"grid": "full"} if name in ("rtn", "gptq") else {}
            of[name] += proxy(ptq.apply(name, W, H, bits=2, **more), W, H)
    assert of["rtn"] > 1.3 * of["gptq"] > 1.3 * of["quip"] > 1.1 * of["quip_sharp"]


@pytest.mark.parametrize("bits", [2, 3])
def test_published_step_of_quip_costs_more(bits: int) -> None:
    W, H = problem(64, 64)
    steps = [ptq.apply("quip", W, H, bits=bits, step=s) for s in ("normal", "published")]
    assert proxy(steps[0], W, H) < 0.95 * proxy(steps[1], W, H)


def test_quip_without_factors() -> None:
    W, H = problem()
    q = ptq.apply("quip", W, H, rescale=False)
    assert "factors" not in q.payload
    assert torch.equal(method_of("quip", rescale=False).decode(q.payload, W.shape), q.weight)


@pytest.mark.parametrize("width", [60, 61, 3])
def test_inputs_that_eight_does_not_divide_are_filled_up_and_counted(width: int) -> None:
    W, H = problem(16, width)
    q = ptq.apply("quip_sharp", W, H, bits=4)
    filled = -(-width // 8) * 8
    assert q.bits.parts["codes"] == pytest.approx(4 * filled / width)
    assert q.weight.shape == W.shape
    assert q.info["relative_proxy"] < 0.02


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"bits": 1}, "bits must be 2 to 8, got 1"),
        ({"bits": 9}, "bits must be 2 to 8, got 9"),
        ({"bits": 2.5}, "bits must be a whole number, got 2.5"),
        ({"passes": -1}, "passes must be at least 0, got -1"),
        ({"H": None}, r"looks at inputs: give H \(in, in\)"),
        ({"H": torch.full((64, 64), torch.nan)}, "H of the matrix must be finite"),
        ({"H": torch.ones(64, 64) * 9 - 8 * torch.eye(64)}, "H must have no negative eigenvalues"),
        ({"W": torch.zeros(0, 64)}, r"the matrix must have weights, got shape \(0, 64\)"),
        ({"pases": 1}, "did you mean 'passes'"),
    ],
)
@pytest.mark.parametrize("name", BOTH)
def test_errors(name: str, change: dict[str, Any], text: str) -> None:
    W, H = problem()
    arguments: dict[str, Any] = {"W": W, "H": H} | change
    with pytest.raises(ConfigError, match=text):
        ptq.apply(name, **arguments)
