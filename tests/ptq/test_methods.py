"""What holds for every PTQ method, found by globbing conf/ptq; and what is particular to RTN."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from precisionlaws import ptq
from precisionlaws.config import ConfigError, build, normal_json
from precisionlaws.kernels import reference
from precisionlaws.models.base import Model, Size
from precisionlaws.models.parts import Decoder, initialize, linears
from precisionlaws.overrides import option
from precisionlaws.ptq.application import method_of, model_bits
from precisionlaws.ptq.calibration import calibrate
from precisionlaws.ptq.matrices import generator
from precisionlaws.ptq.packing import pack, unpack
from precisionlaws.quant import attach
from precisionlaws.quant.formats.base import Format

CONF = Path(__file__).resolve().parents[2] / "conf" / "ptq"
METHODS = sorted(p.stem for p in CONF.glob("*.yaml"))


def matrix(out: int = 24, width: int = 64, seed: int = 0) -> Tensor:
    return torch.randn(out, width, generator=torch.Generator().manual_seed(seed)) / 8


def decoder() -> Decoder:
    spec = build(option("model", "llama"), Model)
    assert isinstance(spec, Model)
    model = spec.build(Size(depth=2, width=32, heads=2), 64, 16)
    assert isinstance(model, Decoder)
    initialize(model, 0)
    return model


@pytest.mark.parametrize("name", METHODS)
def test_payload_is_all_there_is(name: str) -> None:
    """It decodes to the weight bit for bit, and its bytes are the effective bits."""
    spec, W = method_of(name), matrix()
    before = W.clone()
    q = ptq.apply(name, W, torch.eye(64))
    assert torch.equal(W, before)
    assert q.weight.shape == W.shape
    assert q.weight.dtype == W.dtype
    assert torch.equal(spec.decode(q.payload, W.shape), q.weight)
    stored = 8 * sum(t.numel() * t.element_size() for t in q.payload.values()) / W.numel()
    if spec.bits != 16:
        assert q.bits.effective == pytest.approx(stored, abs=1e-12)
    assert q.bits.effective == pytest.approx(sum(q.bits.parts.values()))
    assert q.bits.nominal == spec.bits <= q.bits.effective
    assert torch.equal(ptq.apply(name, W, torch.eye(64), seed=0).weight, q.weight)


@pytest.mark.parametrize("name", METHODS)
def test_yaml_has_no_defaults_list(name: str) -> None:
    assert "defaults" not in (CONF / f"{name}.yaml").read_text()
    assert (normal_json(method_of(name)) == "") == (name == "none")


@pytest.mark.parametrize("name", METHODS)
def test_a_model_has_the_weights_that_its_payloads_decode_to(name: str) -> None:
    """Also where a method works on the whole model; only matrices of blocks and vectors may change."""
    spec, model, before = method_of(name), decoder(), decoder()
    calibration = calibrate(model, np.arange(64, dtype=np.uint8).reshape(4, 16))
    quantized = ptq.quantize_model(model, spec, 0, calibration)
    assert list(quantized) == [n for n, _ in linears(before)]
    for linear, q in quantized.items():
        planned = spec.bits_effective(q.weight.shape)
        assert planned is None or planned == pytest.approx(q.bits.effective, rel=1e-12)
        assert torch.equal(model.get_parameter(f"{linear}.weight"), q.weight)
        assert torch.equal(spec.decode(q.payload, q.weight.shape), q.weight)
    for parameter in ("embed.weight", "head.weight"):
        assert torch.equal(model.get_parameter(parameter), before.get_parameter(parameter))
    again = decoder()
    same = ptq.quantize_model(again, spec, 0, calibrate(again, calibration.sequences.numpy()))
    assert all(torch.equal(same[n].weight, q.weight) for n, q in quantized.items())


def test_random_numbers_are_of_the_seed_and_the_matrix() -> None:
    first = generator(0, "blocks.0.attn.q").initial_seed()
    assert first == generator(0, "blocks.0.attn.q").initial_seed()
    assert (
        len({first, generator(1, "blocks.0.attn.q").initial_seed(), generator(0).initial_seed()})
        == 3
    )


@pytest.mark.parametrize("bits", range(2, 16))
@pytest.mark.parametrize("granularity", ["tensor", "row", "group"])
def test_rtn(bits: int, granularity: str) -> None:
    W, group = matrix(), {"tensor": None, "row": 64, "group": 16}[granularity]
    q = ptq.apply("rtn", W, bits=bits, granularity=granularity, scale_dtype="float32")
    assert torch.equal(q.weight, reference.fake_quantize(W, reference.q_max_of(bits), group))
    assert q.bits.parts["codes"] == bits
    assert q.bits.parts["scales"] == 32 / (group or W.numel())


@pytest.mark.parametrize("bits", range(2, 12))
def test_rtn_rounds_to_nearest_under_the_scale_it_stores(bits: int) -> None:
    W, q_max = matrix(), reference.q_max_of(bits)
    q = ptq.apply("rtn", W, bits=bits)
    s = q.payload["scales"].float().unsqueeze(1)
    assert q.payload["scales"].dtype == torch.float16
    assert torch.equal(q.weight, (W / s).round().clamp(-q_max, q_max) * s)
    assert ((q.weight - W).abs() <= s * (1 + 1e-6 * q_max)).all()


def test_error_falls_fourfold_in_power_per_bit() -> None:
    W = matrix(256, 256)
    error = [(ptq.apply("rtn", W, bits=b).weight - W).square().mean().item() for b in range(3, 9)]
    ratios = [a / b for a, b in itertools.pairwise(error)]
    assert all(3.5 < r < 6 for r in ratios)


@settings(max_examples=80, deadline=None)
@given(bits=st.integers(1, 15), n=st.integers(0, 200), seed=st.integers(0, 2**31))
def test_packing_has_no_gaps(bits: int, n: int, seed: int) -> None:
    codes = torch.randint(2**bits, (n,), generator=torch.Generator().manual_seed(seed))
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.numel() == -(-n * bits // 8)
    assert torch.equal(unpack(packed, bits, n), codes)


def test_zeros_have_a_scale() -> None:
    W = torch.zeros(4, 16)
    assert torch.equal(ptq.apply("rtn", W, bits=4).weight, W)


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (
            {"method": "rtm"},
            r"method 'rtm' is unknown; did you mean 'rtn'\? \(has awq, gptq, none, ",
        ),
        ({"bits": 1}, "bits must be 2 to 15, got 1"),
        ({"gruop": 8}, "gruop: no such field; did you mean 'group'"),
        ({"bits": 12}, "scale_dtype must be float32 for 12 to 15 bits, got float16 for 12"),
        (
            {"granularity": "group", "group": 48},
            "group must divide the 64 inputs of the matrix, got 48",
        ),
        ({"W": torch.ones(3)}, r"the matrix must have two axes \(out, in\), got \(3,\)"),
        ({"W": matrix() * torch.inf}, "the matrix has values that are not finite"),
        ({"H": torch.eye(3)}, r"H must be 64 x 64 for the matrix, got \(3, 3\)"),
        (
            {"W": matrix() * 1e9},
            r"scale_dtype must hold every scale, got float16 for .*: scale_dtype=float32",
        ),
        ({"W": matrix() * 1e-9}, "scale_dtype must hold every scale, got float16"),
    ],
)
def test_errors(args: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        ptq.apply(**({"method": "rtn", "W": matrix(), "bits": 4} | args))


def test_model_in_place_and_never_embedding_or_head() -> None:
    model, before = decoder(), decoder()
    quantized = ptq.quantize_model(model, method_of("rtn", bits=3), 0)
    assert set(quantized) == {n for n, _ in linears(before)}
    for name, parameter in before.named_parameters():
        now, linear = model.get_parameter(name), name.removesuffix(".weight")
        assert torch.equal(now, parameter) == (linear not in quantized)
        if linear in quantized:
            assert torch.equal(now, quantized[linear].weight)
    bits = model_bits(quantized)
    weights = sum(q.weight.numel() for q in quantized.values())
    stored = sum(
        8 * t.numel() * t.element_size() for q in quantized.values() for t in q.payload.values()
    )
    assert bits.nominal == 3
    assert bits.effective == pytest.approx(stored / weights)


def test_model_that_does_not_fit_is_not_touched() -> None:
    model, before = decoder(), decoder()
    with pytest.raises(
        ConfigError, match=r"group must divide the 80 inputs of blocks.0.mlp.down, got 32"
    ):
        ptq.quantize_model(model, method_of("rtn", granularity="group", group=32))
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True)
    )


def test_ptq_of_a_model_with_quantizers_is_seen_by_its_weight_cache() -> None:
    int8 = build(option("format", "int8"), Format)
    assert isinstance(int8, Format)
    model = attach(decoder(), weights=int8)
    ids = torch.zeros(1, 4, dtype=torch.long)
    with torch.no_grad():
        before = model(ids)
        quantized = ptq.quantize_model(model, method_of("rtn", bits=3))
        assert len(quantized) == 14
        assert not torch.equal(model(ids), before)
