"""What training costs in time and money: rough models for plans.

FLOPs and parameters are counted from the model (models/count.py); this turns them into seconds of a CPU
core, and into hours and price of GPUs.

CPU: measured on one idle core with 1,024 tokens a step in float32. size=7k trains 130k to 190k tokens per
second (the model below says 160k), size=20k 85k to 127k (110k), size=50k 60k to 90k (75k); an evaluation of
131,072 tokens takes .3, .55 and .7 s (.28, .40 and .59). Not counted: quantization in training, which takes
15 to 25% longer, and other work on the same cores.

GPU: an H100 SXM has a peak of 989 TFLOP/s in dense bf16 (NVIDIA's data sheet, without sparsity), of which
large models reach some 40%. Small ones do not, nor does fake quantization, which adds passes over memory
and not FLOPs: below a billion parameters measure first and give --mfu.
"""

STEP_SECONDS = (
    4.5e-3  # Python and kernel-launch overhead of one optimizer step, tiny model, one core
)
RATE = 62e9  # FLOP/s of one core on matrices this small (float32)
EVAL_TOKEN_SECONDS = 1.5e-6  # log-softmax over the vocabulary, beside the forward pass

H100_PEAK = 989e12  # FLOP/s
MFU = 0.4  # share of the peak that training reaches
PRICE = 2.5  # currency units per GPU-hour


def cpu_seconds(flops: float, steps: float, eval_tokens: float, flops_per_token: float) -> float:
    """Seconds of one core for training `flops` in `steps`, and forward passes over `eval_tokens`.

    flops_per_token: of training; a forward pass is a third of it.
    """
    evaluation = eval_tokens * (EVAL_TOKEN_SECONDS + flops_per_token / 3 / RATE)
    return steps * STEP_SECONDS + flops / RATE + evaluation


def gpu_hours(flops: float, mfu: float = MFU) -> float:
    """H100-hours of `flops` at this share of the peak.

    Raises: ValueError for a share that is none.
    """
    if not 0 < mfu <= 1:
        raise ValueError(f"mfu must be above 0 and at most 1, got {mfu:g}")
    return flops / (H100_PEAK * mfu) / 3600


def duration(seconds: float) -> str:
    """45 s, 12 min, 3.5 h, 2.1 d"""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size or (unit == "min" and seconds >= 90):
            return (
                f"{seconds / size:.1f} {unit}"
                if seconds < 10 * size
                else f"{seconds / size:,.0f} {unit}"
            )
    return f"{seconds:.0f} s"
