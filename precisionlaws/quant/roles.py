"""Which tensors are quantized in training: weights, activations, and the keys and values of attention."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from precisionlaws.config import ConfigError, Spec, neutral, ranged
from precisionlaws.quant.formats.base import Format
from precisionlaws.quant.formats.int import Int

ROLES = {"weights": "w", "activations": "a", "kv": "kv", "gradients": "g"}
OFF = Int(bits=16, granularity="row", group=16, scale="absmax", estimator="ste")


@dataclass(frozen=True, kw_only=True)
class Quant(Spec):
    """A format per role. Everything at 16 bits is exactly no quantization."""

    SHORT: ClassVar[str] = "quant"
    weights: Format
    activations: Format
    kv: Format
    gradients: Format = neutral(OFF)  # of the outputs of linears, in the backward pass
    rotation: Literal["none", "hadamard"] = neutral("none")  # of weights and activations together
    start: float = ranged(0, 0.99, neutral=0.0)  # share of D before quantization begins

    def rules(self) -> None:
        for role, format in self.roles().items():
            learned_elsewhere = role != "weights" and getattr(format, "granularity", "") != "tensor"
            if format.learns and (role == "gradients" or learned_elsewhere):
                raise ConfigError(
                    f"{role}.scale must not be learned "
                    + ("" if role == "gradients" else "but with granularity=tensor ")
                    + "(a parameter belongs to a place, not to a token), got learned"
                )

    def acting(self) -> dict[str, Any]:
        fields = super().acting()
        if not self.rotated:
            fields.pop("rotation", None)
        return fields

    def normal(self) -> dict[str, Any] | None:
        return super().normal() if self.roles() else None

    def roles(self) -> dict[str, Format]:
        """The roles that are quantized."""
        return {r: f for r in ROLES if not (f := getattr(self, r)).off}

    @property
    def rotated(self) -> bool:
        """Whether anything is rotated: weights and activations are, where one of them is quantized."""
        return self.rotation != "none" and bool({"weights", "activations"} & set(self.roles()))

    @property
    def mode(self) -> Literal["none", "qat", "low_precision"]:
        """none: all 16 bits; qat: weights only; low_precision: anything else."""
        roles = self.roles()
        return "none" if not roles else "qat" if set(roles) == {"weights"} else "low_precision"

    def label(self) -> str:
        """For names: fp, w4, w4a8kv8."""
        return "".join(f"{ROLES[r]}{f.bits:g}" for r, f in self.roles().items()) or "fp"
