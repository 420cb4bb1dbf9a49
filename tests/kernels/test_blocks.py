"""Floats under scales, MX, NVFP4 and zero points: equal to reference vectors, bit for bit."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from precisionlaws.kernels import asymmetric, blocks, numbers, pieces, reference, scaled

TYPES = {
    "e4m3fn": numbers.float_type(4, 3, "nan"),
    "e5m2": numbers.float_type(5, 2, "ieee"),
    "e3m2": numbers.float_type(3, 2, "none"),
    "e2m3": numbers.float_type(2, 3, "none"),
    "e2m1": numbers.float_type(2, 1, "none"),
}
INT8 = (6, 0, 127 / 64)  # of MX
ALL = {
    "float row": lambda x: scaled.fake_quantize(x, *TYPES["e4m3fn"], x.shape[-1]),
    "float group": lambda x: scaled.fake_quantize(x, *TYPES["e2m1"], 16),
    "int": lambda x: scaled.fake_quantize(x, *numbers.int_type(7), 16),
    "asymmetric": lambda x: asymmetric.fake_quantize(x, 15, 16),
    "mx": lambda x: blocks.mx(x, *TYPES["e2m1"], 32),
    "nvfp4": lambda x: blocks.nvfp4(x, 16, None, False),
    "nvfp4 torchao": lambda x: blocks.nvfp4(x, 16, None, True),
    "nvfp4 row": lambda x: blocks.nvfp4(x, 16, x.shape[-1], False),
    "nvfp4 none": lambda x: blocks.nvfp4(x, 16, 0, False),
}
every = pytest.mark.parametrize("quantize", ALL.values(), ids=ALL)
Map = Callable[[Tensor], Tensor]


@pytest.fixture(scope="module")
def vectors(goldens: Path) -> Mapping[str, np.ndarray]:
    with np.load(goldens / "quant_goldens.npz") as file:
        return {k: file[k] for k in file.files}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def mismatches(got: Tensor, expected: np.ndarray) -> int:
    """Values whose bits differ."""
    bits = np.ascontiguousarray(got.numpy()).reshape(expected.shape).view(np.int32)
    return int((bits != expected.view(np.int32)).sum())


@pytest.mark.golden
@pytest.mark.parametrize("name", TYPES)
def test_floats_under_row_scales(name: str, vectors: Mapping[str, np.ndarray]) -> None:
    x = torch.from_numpy(vectors["rows/x"])
    y = scaled.fake_quantize(x, *TYPES[name], x.shape[-1])
    s = reference.scale(x, TYPES[name][2], x.shape[-1])
    assert mismatches(y, vectors[f"fp_row/{name}/y"]) == 0
    assert mismatches(s, vectors[f"fp_row/{name}/scale"]) == 0


@pytest.mark.golden
@pytest.mark.parametrize("name", [*TYPES, "int8"])
def test_mx(name: str, vectors: Mapping[str, np.ndarray]) -> None:
    x = torch.from_numpy(vectors["rows/x"])
    kind = INT8 if name == "int8" else TYPES[name]
    assert mismatches(blocks.mx(x, *kind, 32), vectors[f"mx/{name}/y"]) == 0
    codes = torch.frexp(blocks.mx_scales(x, kind[2], 32).double()).exponent + 126
    assert np.array_equal(codes.numpy().reshape(-1), vectors[f"mx/{name}/e8m0"])


@pytest.mark.golden
@pytest.mark.parametrize("bits", range(2, 17))
def test_integers_with_a_zero_point_and_without(
    bits: int, vectors: Mapping[str, np.ndarray]
) -> None:
    x = torch.from_numpy(vectors["rows/x"])
    n = 2**bits - 1
    s, z = asymmetric.grid(x, n, x.shape[-1])
    where = f"int_asym/{bits}/row"
    assert mismatches(asymmetric.fake_quantize(x, n, x.shape[-1]), vectors[f"{where}/y"]) == 0
    assert mismatches(s, vectors[f"{where}/scale"]) == 0
    assert np.array_equal(z.numpy(), vectors[f"{where}/zp"])
    kind = numbers.int_type(reference.q_max_of(bits))
    y = scaled.fake_quantize(x, *kind, x.shape[-1])
    assert mismatches(y, vectors[f"int_sym/{bits}/row/y"]) == 0


@pytest.mark.golden
@pytest.mark.parametrize("outer", [None, 0])
@pytest.mark.parametrize("floored", [False, True])
def test_nvfp4(outer: int | None, floored: bool, vectors: Mapping[str, np.ndarray]) -> None:
    x = torch.from_numpy(vectors["nvfp4/x"])
    name = f"nvfp4{'_1level' * (outer == 0)}{'_torchao' * floored}"
    assert mismatches(blocks.nvfp4(x, 16, outer, floored), vectors[f"{name}/y"]) == 0
    t = blocks.nvfp4_outer(x, outer)
    if not floored:
        b = blocks.nvfp4_scales(x, t, 16, floored)
        assert mismatches(b, vectors[f"{name}/block_scale"]) == 0
    if outer is None:
        assert float(t) == float(vectors["nvfp4/tensor_scale"])


@every
def test_pieces_are_the_whole(quantize: Map, monkeypatch: pytest.MonkeyPatch) -> None:
    x = normal(3, 7, 64).bfloat16()
    whole = quantize(x)
    monkeypatch.setattr(pieces, "PIECE", 128)
    assert torch.equal(quantize(x), whole)
    assert torch.equal(quantize(x.mT.contiguous().mT), whole)


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precision_of_computing(quantize: Map, dtype: torch.dtype) -> None:
    x = normal(6, 64).to(dtype)
    y = quantize(x)
    assert y.dtype == dtype
    if dtype != torch.float64:
        assert torch.equal(y, quantize(x.float()).to(dtype))
    else:
        assert (y.float() - quantize(x.float())).abs().max() < 1e-5


@every
def test_empty_meta_and_one_vector(quantize: Map) -> None:
    assert quantize(torch.empty(0, 64)).shape == (0, 64)
    assert quantize(normal(64)).shape == (64,)
    on_meta = quantize(torch.empty(3, 64, device="meta"))
    assert (on_meta.shape, on_meta.device.type) == ((3, 64), "meta")


@every
def test_zeros_stay_zeros(quantize: Map) -> None:
    x = normal(4, 64)
    x[1] = 0
    x[2] = -0.0
    y = quantize(x)
    assert (y[1:3] == 0).all()
    assert (y[0] != 0).any()


@every
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_spoils_its_group(quantize: Map, bad: float) -> None:
    x = normal(4, 64)
    x[1, 3] = bad
    y = quantize(x)
    assert y[1, :16].isnan().all()
    assert not (y.isinf()).any()


@pytest.mark.parametrize("name", [k for k in ALL if k not in ("float row", "nvfp4 row")])
def test_groups_that_do_not_divide_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"groups of (16|32) must divide the last axis, which has 40"):  # fmt: skip
        ALL[name](normal(4, 40))
