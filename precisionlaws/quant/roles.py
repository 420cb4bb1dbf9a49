"""Which tensors are quantized in training: weights, activations, and the keys and values of attention."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from precisionlaws.config import ConfigError, Spec, neutral
from precisionlaws.quant.formats.base import Format

ROLES = {"weights": "w", "activations": "a", "kv": "kv"}


@dataclass(frozen=True, kw_only=True)
class Quant(Spec):
    """A format per role. Everything at 16 bits is exactly no quantization."""

    SHORT: ClassVar[str] = "quant"
    weights: Format
    activations: Format
    kv: Format
    rotation: Literal["none"] = neutral("none")
    start: int = neutral(0)  # tokens before quantization begins

    def rules(self) -> None:
        if self.start != 0:
            raise ConfigError(f"start must be 0, quantization begins at once, got {self.start}")

    def normal(self) -> dict[str, Any] | None:
        return super().normal() if self.roles() else None

    def roles(self) -> dict[str, Format]:
        """The roles that are quantized."""
        return {r: f for r in ROLES if not (f := getattr(self, r)).off}

    @property
    def mode(self) -> Literal["none", "qat", "low_precision"]:
        """none: all 16 bits; qat: weights only; low_precision: anything else."""
        roles = self.roles()
        return "none" if not roles else "qat" if set(roles) == {"weights"} else "low_precision"

    def label(self) -> str:
        """For names: fp, w4, w4a8kv8."""
        return "".join(f"{ROLES[r]}{f.bits:g}" for r, f in self.roles().items()) or "fp"
