"""The integer format: what it accepts, what it leaves out of a name, how it rounds."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from precisionlaws.config import ConfigError, build
from precisionlaws.kernels import reference
from precisionlaws.overrides import option
from precisionlaws.quant import fake_quantize
from precisionlaws.quant.formats.int import Int


def fmt(**fields: Any) -> Int:
    spec = build(option("format", "int"), Int)
    assert isinstance(spec, Int)
    return replace(spec, **fields)


@pytest.mark.parametrize("bits", [-1, 0, 1, 2, 17, 32])
def test_bits_out_of_range(bits: int) -> None:
    with pytest.raises(
        ConfigError,
        match=rf"^bits must be 3 to 15, or 16 for off, got {bits} \(int2 and ternary are formats",
    ):
        fmt(bits=bits)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"granularity": "rows"}, "granularity must be one of tensor, row, group, got rows"),
        ({"group": 0}, "group must be at least 1, got 0"),
        ({"bits": 4.5}, "bits must be a whole number, got 4.5"),
        ({"bits": True}, "bits must be a whole number, got True"),
        ({"scale": "absmx"}, "scale must be one of absmax, .*, got absmx; did you mean 'absmax'"),
        ({"bits": 4, "scale": "absmean"}, "scale=absmean is for 3 bits and ternary; .* got bits=4"),
        ({"bits": 4, "scale": "learned"}, "go together, got scale=learned and estimator=ste"),
        ({"bits": 4, "estimator": "lsq"}, "go together, got scale=absmax and estimator=lsq"),
    ],
)
def test_errors_name_field_value_and_rule(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        fmt(**fields)


def test_normal_form_holds_what_acts() -> None:
    assert fmt(bits=16).normal() is None
    assert fmt(bits=16, granularity="group", group=8).normal() is None
    assert fmt(bits=4, group=8).normal() == fmt(bits=4).normal()
    assert fmt(bits=4, granularity="group", group=8).normal() != fmt(bits=4).normal()


@pytest.mark.parametrize(("granularity", "group"), [("tensor", None), ("row", 48), ("group", 16)])
def test_granularity_is_that_of_the_kernel(granularity: Any, group: int | None) -> None:
    x = torch.randn(3, 5, 48, generator=torch.Generator().manual_seed(0))
    f = fmt(bits=5, granularity=granularity)
    expected = reference.fake_quantize(x, 15, group)
    assert torch.equal(fake_quantize(x, f), expected)
    assert torch.equal(f.round(x, f.scales(x)), expected)


def test_effective_bits_are_those_of_stored_codes_and_scales() -> None:
    matrices = (("a", 32, 48), ("b", 16, 64))
    values = 32 * 48 + 16 * 64
    assert fmt(bits=16).bits_effective(matrices) == 16
    assert fmt(bits=4).bits_effective(matrices) == 4 + 16 * (32 + 16) / values
    assert fmt(bits=4, granularity="tensor").bits_effective(matrices) == 4 + 16 * 2 / values
    assert fmt(bits=3, granularity="group").bits_effective(matrices) == 4


def test_off_is_the_identity() -> None:
    x = torch.randn(4, 4)
    assert fake_quantize(x, fmt(bits=16)) is x


def test_group_that_does_not_divide() -> None:
    with pytest.raises(
        ConfigError, match="group must divide the 40 values of the last axis, got 16"
    ):
        fake_quantize(torch.randn(2, 40), fmt(bits=4, granularity="group"))


def test_gradient_is_straight_through() -> None:
    x = torch.randn(4, 16, requires_grad=True)
    g = torch.randn(4, 16)
    y = fake_quantize(x, fmt(bits=3))
    assert len(y.detach().unique()) > 3
    (got,) = torch.autograd.grad(y, x, g)
    assert torch.equal(got, g)


def test_a_function_is_a_quantizer_too() -> None:
    assert torch.equal(fake_quantize(torch.ones(3), lambda x: 2 * x), torch.full((3,), 2.0))
