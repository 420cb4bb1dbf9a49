"""Rotations: orthogonal at every length, flat, and without effect on what a layer computes."""

import pytest
import torch
from torch import Tensor

from precisionlaws.ptq import incoherence
from precisionlaws.ptq.incoherence import Rotation, hadamard, hartley
from precisionlaws.ptq.kronecker import Kronecker, orthogonal
from precisionlaws.ptq.ldlq import proxy

LENGTHS = [1, 2, 3, 7, 8, 12, 31, 48, 64, 80, 97, 344]


def of(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("n", LENGTHS)
def test_hadamard_of_any_length_is_orthogonal_and_its_own_inverse(n: int) -> None:
    R = hadamard(torch.eye(n, dtype=torch.float64))
    eye = torch.eye(n, dtype=torch.float64)
    assert torch.allclose(R @ R.T, eye, atol=1e-13)
    assert torch.allclose(R, R.T, atol=1e-13)
    assert R.abs().max() <= (2 / n) ** 0.5 + 1e-12
    if n & (n - 1) == 0:
        assert torch.allclose(R.abs(), torch.full_like(R, n**-0.5))
    x = of(3, 5, n)
    assert torch.allclose(hadamard(x), x @ R, atol=1e-12)


def test_hartley_is_the_discrete_hartley_transform() -> None:
    x = of(9)
    spectrum = torch.fft.fft(x)
    assert torch.allclose(hartley(9) @ x, (spectrum.real - spectrum.imag) / 3, atol=1e-13)


@pytest.mark.parametrize(("m", "n"), [(24, 64), (31, 97), (1, 8), (48, 1)])
@pytest.mark.parametrize("kind", ["hadamard", "kronecker"])
def test_damage_is_the_same_before_and_after(kind: str, m: int, n: int) -> None:
    E, x = of(m, n), of(3 * n, n)
    H = x.T @ x
    if kind == "hadamard":
        rotation = Rotation.random(m, n, generator())
        turned, H_turned, back = rotation.weight(E), rotation.hessian(H), rotation.back
    else:
        U, V = (Kronecker.random(k, generator()) for k in (m, n))
        turned = U.turn(V.turn(E).T).T
        H_turned = V.turn(V.turn(H).T)
        back = lambda X: V.back(U.back(X.T).T)  # noqa: E731
    assert proxy(turned, H_turned) == pytest.approx(proxy(E, H), rel=1e-10)
    assert torch.allclose(back(turned), E, atol=1e-12)
    assert turned.shape == E.shape


def test_outliers_are_spread() -> None:
    W = torch.zeros(48, 80, dtype=torch.float64)
    W[5, 7] = 1.0
    flat = (48 * 80) ** -0.5
    assert Rotation.random(48, 80, generator()).weight(W).abs().max() <= 2 * flat + 1e-12
    U, V = Kronecker.random(48, generator()), Kronecker.random(80, generator())
    assert U.turn(V.turn(W).T).abs().max() < 20 * flat


def test_signs_are_stored_as_they_are() -> None:
    rotation = Rotation.random(5, 9, generator(3))
    again = Rotation.of(rotation.negative(), 5)
    assert torch.equal(again.outputs, rotation.outputs)
    assert torch.equal(again.inputs, rotation.inputs)
    assert set(rotation.inputs.tolist()) == {-1.0, 1.0}
    other = Rotation.random(5, 9, generator(4))
    assert not torch.equal(other.negative(), rotation.negative())


@pytest.mark.parametrize("n", [1, 6, 17])
def test_random_orthogonal(n: int) -> None:
    Q = orthogonal(n, generator())
    assert torch.allclose(Q @ Q.T, torch.eye(n, dtype=torch.float64), atol=1e-13)
    assert not torch.equal(Q, orthogonal(n, generator(1))) or n == 1


def test_factors_are_as_equal_as_can_be() -> None:
    for n, p in ((64, 8), (48, 6), (97, 1), (80, 8)):
        assert Kronecker.random(n, generator()).left.shape == (p, p)


def test_hadamard_has_one_owner() -> None:
    from precisionlaws.kernels import hadamard as kernel

    assert incoherence.rotated is kernel.rotated
