"""The random numbers of stochastic rounding: a function of (seed, step, which tensor, which call)."""

from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from precisionlaws.kernels.philox import At


@dataclass
class Clock:
    """Where a training stands; one for all quantizers of a model. The trainer sets it."""

    seed: int = 0
    step: int = 0
    active: bool = True  # before quantization begins nothing is rounded


@dataclass
class Noise:
    """Draws for one tensor. Within a step every call, as of a micro-batch, has numbers of its own."""

    clock: Clock = field(default_factory=Clock)
    name: str = ""
    at: tuple[int, int] = (0, 0)  # step of the last call, calls in that step

    def draw(self) -> "At":
        """Where the numbers of the next tensor are."""
        step = self.clock.step
        self.at = (step, self.at[1] + 1 if self.at[0] == step else 1)
        text = f"{self.clock.seed}/{self.name}/{step}/{self.at[1]}"
        return int.from_bytes(sha256(text.encode()).digest()[:8], "little", signed=True), 0
