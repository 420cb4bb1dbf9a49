"""nGPT: a transformer on the unit sphere (Loshchilov et al. 2024, arXiv:2410.01131).

Every vector of the residual stream, and every row or column of a matrix that lies along the embedding,
has length 1: matrices are normalized after every step, so products are cosines. A block does not add
what its part proposes but moves towards it, by a learned rate per dimension:

    h = unit(h + alpha (unit(attention(h)) - h)),   then the same with the MLP
    q = s_qk unit(rope(W_q h)),  k = s_qk unit(rope(W_k h)),  softmax(√d_k q·k)
    u = s_u √d W_u h,  v = s_v √d W_v h,  W_down (u silu(v)),   logits = s_z W_head h

Gains are stored as `scale` and used as stored · start / scale, so that Adam, whose steps do not see the
size of a number, moves each at the speed that suits it. No weight decay and no warm-up. All is as in the
public repository (NVIDIA/ngpt), which also stretches u by √d (the paper: v alone).

Order of normalization and quantization: what an optimizer steps is normalized, and quantizers see unit
matrices; their output is not normalized again, because that would leave the grid. A quantized matrix is a
unit matrix but for its rounding errors. Activations are rounded where they are inputs, after `unit`; keys
as a cache stores them: rotated, normalized, times s_qk.

`rope=public` is what NVIDIA/ngpt computes (its issue #10): the table holds sine and cosine in turn but is
split into halves, and a vector's own part is lost, so that lengths and distances are not kept. Its authors
say that their internal code, with which the paper was made, differs from the repository. For reproducing
runs of the repository only.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from precisionlaws.config import ConfigError, ranged
from precisionlaws.models.base import Matrix, Model, Size
from precisionlaws.models.own import BLOCKS

if TYPE_CHECKING:
    from precisionlaws.models.parts import Decoder


@dataclass(frozen=True, kw_only=True)
class Ngpt(Model):
    SHORT: ClassVar[str] = "ngpt"
    NORMALIZES: ClassVar[bool] = True
    hidden: int | None = ranged(1)  # null: mlp_ratio * width, to the nearest multiple of 16
    mlp_ratio: float = ranged(0.01)
    rope_base: float = ranged(1)
    rope: Literal["rotary", "public"]
    alpha: float = ranged(0, 1)

    def inactive(self) -> set[str]:
        return set() if self.hidden is None else {"mlp_ratio"}

    @property
    def own(self) -> tuple[str, ...]:
        return (BLOCKS,)

    def resolved(self, size: Size) -> "Ngpt":
        """Raises: ConfigError for heads of odd width."""
        step = 4 if self.rope == "public" else 2
        if size.head_dim % step:
            raise ConfigError(
                f"heads must leave a width per head divisible by {step}, got {size.head_dim}"
            )
        return replace(self, hidden=self.inner(size))

    def inner(self, size: Size) -> int:
        """Hidden width of the MLP. Groups of 16 must divide every reduced axis."""
        return self.hidden or 16 * max(1, round(self.mlp_ratio * size.width / 16))

    def matrices(self, size: Size) -> tuple[Matrix, ...]:
        C, F = size.width, self.inner(size)
        shapes = {f"attn.{name}": (C, C) for name in "qkvo"}
        shapes |= {"mlp.gate": (F, C), "mlp.up": (F, C), "mlp.down": (C, F)}
        return tuple(
            (f"blocks.{i}.{name}", *shape)
            for i in range(size.depth)
            for name, shape in shapes.items()
        )

    def other(self, size: Size, vocab: int, context: int) -> int:
        # per block: s_qk, two alphas, s_u and s_v; for the logits s_z
        return size.depth * (3 * size.width + 2 * self.inner(size)) + vocab

    def mixing_flops(self, size: Size, context: int) -> int:
        # q·k and p·v over the whole square: the convention of torch's FlopCounterMode
        return size.depth * 2 * 2 * context * size.width

    def build(self, size: Size, vocab: int, context: int) -> "Decoder":
        from precisionlaws.models import attention, parts, unit_parts

        C, D, F = size.width, size.head_dim, self.inner(size)
        rope = unit_parts.PublicRope if self.rope == "public" else attention.Rope
        turn = rope(D, size.heads, context, self.rope_base)
        blocks = [
            unit_parts.Block(
                unit_parts.Attention(C, size.heads, turn),
                unit_parts.SwiGLU(C, F),
                [unit_parts.Scale(C, self.alpha, C**-0.5) for _ in range(2)],
            )
            for _ in range(size.depth)
        ]
        return unit_parts.Decoder(parts.Embedding(vocab, C), blocks, parts.Linear(C, vocab))
