"""What training costs in time: a rough model for plans, measured on CPU cores.

FLOPs and parameters are counted from the model (models/count.py); this turns them into seconds.
"""

STEP_SECONDS = 5e-3  # Python and kernel-launch overhead of one optimizer step, tiny model, one core
RATE = 25e9  # FLOP/s of one core on matrices this small (float32)


def cpu_seconds(flops: float, steps: float, eval_tokens: float, flops_per_token: float) -> float:
    """Seconds of one core for training `flops` in `steps`, and forward passes over `eval_tokens`.

    flops_per_token: of training; a forward pass is a third of it.
    """
    return steps * STEP_SECONDS + (flops + eval_tokens * flops_per_token / 3) / RATE


def duration(seconds: float) -> str:
    """45 s, 12 min, 3.5 h, 2.1 d"""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size or (unit == "min" and seconds >= 90):
            return (
                f"{seconds / size:.1f} {unit}"
                if seconds < 10 * size
                else f"{seconds / size:.0f} {unit}"
            )
    return f"{seconds:.0f} s"
