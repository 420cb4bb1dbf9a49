"""What every PTQ method answers, and what it returns. Torch-free.

A method is one file: a `Ptq` with its options, `check`, `quantize` and `decode`, and `conf/ptq/NAME.yaml`.

    check(shape)                 before any work: can a matrix of this shape be quantized?
    quantize(W, H, generator)    one matrix; whatever it draws comes from the generator
    decode(payload, shape)       the weight again, bit for bit: the payload is all that is stored, and its
                                 bytes are the effective bits (a seed drawn from the generator is 8 bytes)

That is enough for most methods: `quantize_model` goes over the matrices of a model, each by itself. A method
that works on more than one matrix at a time overrides it: to move scales into the norm before a matrix (AWQ),
or to fine-tune the model block by block and end to end (QuIP#). It gets the model with its trained weights
and quantizers of activations, the calibration (H by name, and the token sequences, for methods that need
activations), and a seed. It may change every parameter that is stored unquantized anyway (norms, biases), and
must leave the model with the weights that it returns, each of them what its payload decodes to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from precisionlaws.config import ConfigError, Spec, digest, neutral, normal_json, ranged

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from precisionlaws.ptq.calibration import Calibration


@dataclass(frozen=True)
class Bits:
    """Bits per weight. effective: all that is stored, by the size of the payload; parts sum to it."""

    nominal: float
    effective: float
    parts: Mapping[str, float]


@dataclass(frozen=True)
class Quantized:
    """One matrix after PTQ. payload: the packed tensors that are stored; they decode to `weight`."""

    weight: "Tensor"  # (out, in), the numbers that a forward pass uses
    payload: Mapping[str, "Tensor"]
    bits: Bits
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Ptq(Spec):
    """Base of `conf/ptq`. A subclass has `bits`, as a field or, when fixed, as a class attribute.

    phase: `final` takes the weights of the finished run, `stable` those before its learning rate decayed.
    activation_bits, kv_bits: of what a run trained at 16 bits rounds after training beside its weights, as
    integers with a scale per token and head; H is then that of rounded inputs.
    """

    NUMERICS: ClassVar[int] = 1  # bumped when its results change: old points are other points
    needs_hessian: ClassVar[bool] = False
    phase: Literal["final", "stable"] = neutral("final")
    activation_bits: int = ranged(3, 16, neutral=16)
    kv_bits: int = ranged(3, 16, neutral=16)

    if TYPE_CHECKING:  # at run time a name here would become the default of the field
        bits: float  # nominal bits per weight; 16 means untouched

    def check(self, shape: Sequence[int], name: str = "the matrix") -> None:
        """Raise ConfigError if a matrix of this shape cannot be quantized; before any work."""
        if 0 in shape:
            raise ConfigError(f"{name} must have weights, got shape {tuple(shape)}")

    def bits_effective(self, shape: Sequence[int]) -> float | None:
        """Effective bits of a matrix of this shape in a model, for plans; None: its payload will tell."""
        return None

    def quantize(
        self, W: "Tensor", H: "Tensor | None" = None, generator: "Generator | None" = None
    ) -> Quantized:
        """W (out, in), H (in, in): mean of x xᵀ over calibration tokens; generator: on the CPU.

        `info` may hold relative_proxy and relative_proxy_rtn (`ldlq.proxy`), damping, a warning in words,
        and other numbers, which rows carry as means over the matrices.
        """
        raise NotImplementedError

    def decode(self, payload: Mapping[str, "Tensor"], shape: Sequence[int]) -> "Tensor":
        """The weight that a payload stands for, bit for bit that of `quantize`."""
        raise NotImplementedError

    def quantize_model(
        self, model: "nn.Module", calibration: "Calibration | None", seed: int
    ) -> dict[str, Quantized]:
        """Quantize the block matrices of `model` in place, all of them checked: name of linear -> Quantized."""
        from precisionlaws.ptq.matrices import one_by_one

        return one_by_one(self, model, calibration, seed)


@dataclass(frozen=True, kw_only=True)
class Calibrated(Ptq):
    """Base of methods that look at inputs: H is the mean of x xᵀ over training tokens."""

    needs_hessian: ClassVar[bool] = True
    calibration_tokens: int = ranged(1)
    calibration_seed: int = ranged(0)  # which tokens; equal for every run of a study


def eval_id(ptq: Ptq) -> str:
    """Names a point within its run: 'final' for the loss as trained, 'stable' for that before the decay."""
    text = normal_json(ptq)
    if text and ptq.NUMERICS != 1:
        text += f";numerics={ptq.NUMERICS}"
    name = f"{ptq.SHORT}{ptq.bits:g}-{digest(text)}" if text else ""
    if ptq.phase == "stable":
        return f"stable-{name}" if name else "stable"
    return name or "final"


def bits_of(payload: Mapping[str, "Tensor"], nominal: float, values: int) -> Bits:
    """Bits per weight of a payload: the bytes that its tensors take."""
    parts = {k: 8 * t.numel() * t.element_size() / values for k, t in payload.items()}
    return Bits(nominal, sum(parts.values()), parts)


def mean_bits(bits: Mapping[str, Bits], values: Mapping[str, int]) -> Bits:
    """Bits per weight over several matrices, weighted by their numbers of weights."""
    total = sum(values[k] for k in bits)

    def mean(of: Mapping[str, float]) -> float:
        return sum(of[k] * values[k] for k in bits) / total

    names = {p for b in bits.values() for p in b.parts}
    parts = {p: mean({k: b.parts.get(p, 0.0) for k, b in bits.items()}) for p in sorted(names)}
    return Bits(
        mean({k: b.nominal for k, b in bits.items()}),
        mean({k: b.effective for k, b in bits.items()}),
        parts,
    )
