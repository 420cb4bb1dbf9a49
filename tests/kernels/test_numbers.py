"""Number types: equal to the field's own on every input, and to reference vectors."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import Tensor

from precisionlaws.kernels import numbers

TYPES = {  # exponent, mantissa, what the top codes mean; the same type in ml_dtypes
    "e4m3fn": ((4, 3, "nan"), ml_dtypes.float8_e4m3fn),
    "e5m2": ((5, 2, "ieee"), ml_dtypes.float8_e5m2),
    "e3m2": ((3, 2, "none"), ml_dtypes.float6_e3m2fn),
    "e2m3": ((2, 3, "none"), ml_dtypes.float6_e2m3fn),
    "e2m1": ((2, 1, "none"), ml_dtypes.float4_e2m1fn),
    "e3m4": ((3, 4, "ieee"), ml_dtypes.float8_e3m4),
    "e4m3": ((4, 3, "ieee"), ml_dtypes.float8_e4m3),
    "bf16": ((8, 7, "ieee"), ml_dtypes.bfloat16),
    "fp16": ((5, 10, "ieee"), np.float16),
}


def same_bits(x: Tensor | np.ndarray, y: Tensor | np.ndarray) -> bool:
    """Equal to the sign of zero; one NaN is as good as another."""
    a, b = np.asarray(x), np.asarray(y)
    nan = np.isnan(a)
    bits = np.int64 if a.dtype == np.float64 else np.int32
    return np.array_equal(nan, np.isnan(b)) and np.array_equal(
        np.ascontiguousarray(a).view(bits)[~nan], np.ascontiguousarray(b).view(bits)[~nan]
    )


def every_bf16(name: str) -> tuple[Tensor, Tensor]:
    """All 65,536 values of bf16, and what ml_dtypes makes of them, beyond the largest number that: fp32."""
    layout, kind = TYPES[name]
    largest = numbers.float_type(*layout)[2]
    with np.errstate(invalid="ignore"):  # NaN to types that have none
        x = np.arange(65536, dtype=np.uint16).view(ml_dtypes.bfloat16).astype(np.float32)
        expected = np.clip(x, -largest, largest).astype(kind).astype(np.float32)
    expected[np.isnan(x)] = np.nan
    return torch.from_numpy(x), torch.from_numpy(expected)


@pytest.mark.parametrize("name", TYPES)
def test_every_bf16_input_rounds_as_in_ml_dtypes(name: str) -> None:
    x, expected = every_bf16(name)
    for values in (x, x.double()):
        got = numbers.nearest(values, *numbers.float_type(*TYPES[name][0]))
        assert got.dtype == values.dtype
        assert same_bits(got.float(), expected)


@pytest.mark.golden
@pytest.mark.parametrize("name", TYPES)
def test_golden_values(name: str, goldens: Path) -> None:
    kind = numbers.float_type(*TYPES[name][0])
    with np.load(goldens / "quant_goldens.npz") as file:
        arrays = {k: torch.from_numpy(file[f"elem/{name}/{k}"]) for k in ("x", "sat", "u", "stochastic_sat")}  # fmt: skip
    assert same_bits(numbers.nearest(arrays["x"], *kind), arrays["sat"])
    assert same_bits(numbers.stochastic(arrays["x"], arrays["u"], *kind), arrays["stochastic_sat"])


@pytest.mark.parametrize("name", TYPES)
def test_numbers_are_those_of_the_codes(name: str) -> None:
    layout, kind = TYPES[name]
    every = numbers.numbers(*numbers.float_type(*layout))
    width = np.dtype(kind).itemsize
    codes = np.arange(2 ** (sum(layout[:2])), dtype=np.uint8 if width == 1 else np.uint16)
    with np.errstate(invalid="ignore"):
        values = codes.view(kind).astype(np.float64)
    assert np.array_equal(every.numpy(), values[np.isfinite(values)])


@pytest.mark.parametrize("exponent", range(1, 6))
@pytest.mark.parametrize("mantissa", [0, 1, 3, 6])
@pytest.mark.parametrize("specials", ["none", "nan"])
def test_any_layout_rounds_to_the_nearest_of_its_numbers(
    exponent: int, mantissa: int, specials: str
) -> None:
    kind = numbers.float_type(exponent, mantissa, specials)
    every = numbers.numbers(*kind)
    assert len(every) == 2 ** (exponent + mantissa) - (specials == "nan")
    x = torch.rand(2000, generator=torch.Generator().manual_seed(0)) * 1.2 * kind[2]
    x = torch.cat([x, every.float(), (every[1:] + every[:-1]).float() / 2])
    got = numbers.nearest(x, *kind)
    assert torch.isin(got.double(), every).all()
    least = (x.double()[:, None] - every).abs().amin(1)
    assert torch.equal((x.double() - got.double()).abs(), least)


def test_integers_are_types() -> None:
    for q_max in (1, 3, 7, 127, 2**14 - 1):
        x = torch.linspace(-1.1 * q_max, 1.1 * q_max, 4001)
        expected = x.round().clamp(-q_max, q_max)
        assert torch.equal(numbers.nearest(x, *numbers.int_type(q_max)), expected)
        assert len(numbers.numbers(*numbers.int_type(q_max))) == q_max + 1


def test_what_is_not_finite_and_zeros() -> None:
    x = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0, -0.0, -1e-30])
    y = numbers.nearest(x, *numbers.float_type(2, 1, "none"))
    assert same_bits(y, torch.tensor([6.0, -6.0, torch.nan, 0.0, -0.0, -0.0]))


def test_stochastic_rounding_is_unbiased() -> None:
    kind = numbers.float_type(2, 1, "none")
    x = torch.tensor([0.1, -0.3, 0.9, 1.3, -2.6, 5.7, 6.0, 4.0])
    u = torch.rand(40_000, 8, generator=torch.Generator().manual_seed(0))
    y = numbers.stochastic(x.expand_as(u).contiguous(), u, *kind)
    error = y.double().std(0) / len(u) ** 0.5
    assert ((y.double().mean(0) - x).abs() <= 4.5 * error + 1e-7).all()
    assert torch.isin(y.abs().double(), numbers.numbers(*kind)).all()
