"""Which runs can be trained as one pack, and how many at once pay. Nothing here needs torch."""

from typing import Any

from precisionlaws.config import ConfigError, digest
from precisionlaws.run import RunConfig, normal_text

LANE = 64  # tokens; a member's share of every tensor is then a whole number of vectors

# tokens per step: {N up to which packs of EIGHT train at least 1.4 times as fast as one after the other}
# Measured with one thread (AVX-512, context 128, in CPU seconds, two sittings, benchmarks/bench_packs.py). At
# 128 tokens: 3.4 times with N = 7k, 2.5 and 2.7 with 20k, 1.5 and 1.8 with 100k; at 256: 2.1 with 20k, 1.7 with
# 50k, but 1.3 and 1.4 with 100k; at 512: 1.7 and 1.9, 1.5 and 1.6, and with 50k 1.2 and 1.4; at 1,024, the
# default, 1.1 to 1.4, which is less than what a worker without a unit costs.
EIGHT = 8
CPU = {128: 110_000, 256: 60_000, 512: 30_000}


def pays(run: RunConfig, device: str) -> int:
    """The size of pack that was measured to pay; 1 where none was: no GPU has been measured."""
    if device != "cpu" or obstacle(run):
        return 1
    most = next((n for tokens, n in CPU.items() if lane(run) <= tokens), 0)
    return EIGHT if most >= run.N else 1


def lane(run: RunConfig, micro_batch: int | None = None) -> int:
    """Tokens of one member that pass the model at once."""
    sequences = run.micro_batch or micro_batch
    return sequences * run.data.context if sequences else run.batch


def obstacle(run: RunConfig, micro_batch: int | None = None) -> str:
    """Why a run cannot be trained in a pack; '' if it can."""
    if not run.optimizer.elementwise:
        return f"steps of optim={run.optim.SHORT} are not elementwise"
    if run.multipliers is not None:
        return f"learning rates of parametrization={run.parametrization.SHORT} differ by parameter"
    quant = run.quant
    if quant.rotated or quant.start or not quant.gradients.off:
        return "rotation, a late start and quantized gradients are for runs by themselves"
    for role, f in quant.roles().items():
        if f.learns or getattr(f, "rounding", "nearest") != "nearest":
            return f"learned scales and stochastic rounding ({role}) are for runs by themselves"
    if (tokens := lane(run, micro_batch)) % LANE:
        return (
            f"{tokens} tokens at once are no multiple of {LANE}, and bits would depend on the lane"
        )
    return ""


def check_packable(run: RunConfig, size: int, micro_batch: int | None = None) -> None:
    """Raises: ConfigError."""
    if why := obstacle(run, micro_batch):
        raise ConfigError(f"exec.pack must be 1 here, got {size}: {why}")


def pack_key(run: RunConfig, fingerprint: str | None = None) -> str:
    """Equal for runs that can be members of one pack: all that decides shapes and the common schedule,
    but not bits, seed, lr, weight decay and clipping; nor the number of steps if they share trunks."""
    parts: dict[str, Any] = run.resolved(fingerprint or run.data.fingerprint())
    del parts["seed"], parts["quant"]
    if run.lr_schedule.TRUNK is not None:
        del parts["steps"]
    own = {"lr", "weight_decay", "clip"}
    optim = {k: v for k, v in run.optimizer.acting().items() if k not in own}
    return digest(normal_text(parts | {"optim": {"is": run.optim.SHORT} | optim}))


def kinds(run: RunConfig) -> dict[str, str]:
    """Role -> what else than bits its quantizer is, of the roles that are on."""
    forms = {role: f.normal() or {} for role, f in run.quant.roles().items()}
    return {r: str(sorted((k, v) for k, v in n.items() if k != "bits")) for r, n in forms.items()}


def together(one: dict[str, str], other: dict[str, str]) -> bool:
    """Whether two `kinds` can be quantized at once."""
    return all(other[role] == kind for role, kind in one.items() if role in other)
