"""AWQ: folding changes nothing that a model computes, and every choice lowers what H measures."""

from typing import Any

import pytest
import torch
from torch import Tensor

from precisionlaws import ptq
from precisionlaws.config import build
from precisionlaws.models.base import Model, Size
from precisionlaws.models.parts import Decoder, initialize, linears
from precisionlaws.overrides import option
from precisionlaws.ptq.application import method_of, model_bits
from precisionlaws.ptq.calibration import Calibration, calibrate
from precisionlaws.ptq.clipping import SHARES, clipped
from precisionlaws.ptq.folding import fold, foldable
from precisionlaws.ptq.scalar import Scalar

IDS = torch.randint(64, (32, 16), generator=torch.Generator().manual_seed(0))


def problem(out: int = 24, width: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """W with heavy tails, and H of inputs of very unequal power."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(3 * width, width, generator=g, dtype=torch.float64)
    x = x @ torch.randn(width, width, generator=g, dtype=torch.float64)
    x *= torch.randn(width, generator=g, dtype=torch.float64).exp()
    W = torch.randn(out, width, generator=g, dtype=torch.float64)
    return W * W.abs() / 8, x.T @ x / len(x)


def proxy(E: Tensor, H: Tensor) -> float:
    return ((E @ H) * E).sum().item()


def decoder(name: str, **options: Any) -> Decoder:
    spec = build(option("model", name) | options, Model)
    assert isinstance(spec, Model)
    model = spec.build(Size(depth=2, width=64, heads=4), 64, 16).double()
    assert isinstance(model, Decoder)
    initialize(model, 0)
    g = torch.Generator().manual_seed(1)
    for path, p in model.named_parameters():
        if p.dim() == 1:  # gains and biases as training leaves them
            p.data += 0.3 * torch.randn(p.shape, generator=g, dtype=torch.float64)
        if path.endswith((".k.weight", ".up.weight")):
            p.data *= torch.randn(p.shape[1], generator=g, dtype=torch.float64).exp()
    return model


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("llama", {}, 2 * 4),
        ("llama", {"kv_heads": 2}, 2 * 3),
        ("gpt", {}, 2 * 3),
        ("ngpt", {}, 0),  # unit matrices: nothing can take a scale
    ],
)
def test_folding_changes_no_output(name: str, options: dict[str, Any], count: int) -> None:
    model = decoder(name, **options)
    with torch.no_grad():
        before, places = model(IDS), list(foldable(model))
        for source, readers in places:
            g = torch.Generator().manual_seed(len(readers))
            s = torch.randn(readers[0].weight.shape[1], generator=g, dtype=torch.float64).exp()
            fold(source, readers, s)
        after = model(IDS)
    assert len(places) == count
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("granularity", ["tensor", "row", "group"])
@pytest.mark.parametrize("grid", ["narrow", "full", "asymmetric"])
def test_every_choice_pays(grid: str, granularity: str) -> None:
    W, H = problem()
    options: dict[str, Any] = {"bits": 3, "grid": grid, "granularity": granularity}
    rtn = proxy(ptq.apply("rtn", W, **options).weight - W, H)
    of = {
        (scale, clip): ptq.apply("awq", W, H, scale=scale, clip=clip, **options)
        for scale in (False, True)
        for clip in (False, True)
    }
    damage = {k: proxy(q.weight - W, H) for k, q in of.items()}
    assert damage[False, False] == pytest.approx(rtn, rel=1e-9)
    assert damage[True, False] < 0.9 * rtn
    assert damage[False, True] < 0.95 * rtn
    assert damage[True, True] <= damage[True, False]
    for q in of.values():
        assert q.info["relative_proxy"] == pytest.approx(
            proxy(q.weight - W, H) / proxy(W, H), rel=1e-3
        )
        assert q.info["relative_proxy_rtn"] == pytest.approx(rtn / proxy(W, H), rel=1e-6)
        assert "warning" not in q.info


def test_equal_inputs_need_no_scale() -> None:
    W, _ = problem()
    q = ptq.apply("awq", W, torch.eye(64, dtype=torch.float64), clip=False)
    assert torch.equal(q.weight, ptq.apply("rtn", W).weight)
    nothing = ptq.apply("awq", W, torch.zeros(64, 64, dtype=torch.float64), clip=True)
    assert torch.equal(nothing.weight, ptq.apply("rtn", W).weight)


def test_ranges_are_the_best_of_all_that_are_tried() -> None:
    """With one group per row there is nothing to go around: row by row, the least of the candidates."""
    W, H = problem()
    spec = method_of("awq", bits=3, grid="asymmetric")
    assert isinstance(spec, Scalar)
    chosen = clipped(W, spec.fit(W), H, spec.fit)
    tried = [spec.fit(W)] + [
        spec.fit(W.clamp(-s * W.abs().amax(1, True), s * W.abs().amax(1, True))) for s in SHARES
    ]
    errors = [W - g.codes(W) * g.scale for g in tried]
    best = torch.stack([((e @ H) * e).sum(1) for e in errors]).min(0).values
    e = W - chosen.codes(W) * chosen.scale
    torch.testing.assert_close(((e @ H) * e).sum(1), best)
    assert not torch.equal(chosen.scale, tried[0].scale)


@pytest.mark.parametrize("name", ["llama", "gpt", "ngpt"])
def test_in_a_model_scales_cost_nothing(name: str) -> None:
    options: dict[str, Any] = {"bits": 3, "granularity": "group", "group": 16}
    model = decoder(name)
    plain = [p.detach().clone() for p in model.parameters()]
    calibration = calibrate(model, IDS.numpy())
    quantized = ptq.quantize_model(model, method_of("awq", **options), 0, calibration)
    rtn = decoder(name)
    same = ptq.quantize_model(rtn, method_of("rtn", **options))
    assert model_bits(quantized).effective == model_bits(same).effective == 3 + 16 / 16
    moved = [not torch.equal(a, b) for a, b in zip(plain, model.parameters(), strict=True)]
    assert sum(moved) == len(quantized) + {"llama": 2 * 2, "gpt": 2 * (4 + 1), "ngpt": 0}[name]
    worse = sum(q.info["relative_proxy"] for q in quantized.values())
    assert worse < 0.95 * sum(q.info["relative_proxy_rtn"] for q in quantized.values())
    if name == "llama":  # what H says is what the blocks put out: a whole model errs less too
        with torch.no_grad():
            whole = decoder(name)(IDS)
            errors = [(m(IDS) - whole).square().mean() for m in (model, rtn)]
        assert errors[0] < errors[1]


def test_proxies_are_in_the_units_of_the_model_as_it_was() -> None:
    """tr(E H Eᵀ) of matrices under folded scales is that of the same change without folding."""
    model, before = decoder("llama"), decoder("llama")
    calibration = calibrate(model, IDS.numpy())
    q = ptq.quantize_model(model, method_of("awq", bits=3), 0, calibration)
    for norm, name in (("norm", "attn.q"), ("mlp_norm", "mlp.gate")):
        path = f"blocks.0.{name}"
        s = before.get_parameter(f"blocks.0.{norm}.weight") / model.get_parameter(
            f"blocks.0.{norm}.weight"
        )
        W, H = before.get_parameter(f"{path}.weight"), calibration.hessians[path]
        E = q[path].weight / s - W
        assert q[path].info["relative_proxy"] == pytest.approx(proxy(E, H) / proxy(W, H), rel=1e-6)


def test_calibration_holds_what_methods_need() -> None:
    model = decoder("llama")
    made = calibrate(model, IDS.numpy())
    assert isinstance(made, Calibration)
    assert torch.equal(made.sequences, IDS)
    assert set(made.hessians) == {n for n, _ in linears(model)}
