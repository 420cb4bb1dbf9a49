"""One step after the other."""

import math
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from precisionlaws.data.batches import Batches
from precisionlaws.optim.clip import clip_grad_norm
from precisionlaws.quant.attachment import clocks, weights_quantized_once
from precisionlaws.run import RunConfig
from precisionlaws.training.objectives import pairs
from precisionlaws.training.state import State

# Between two looks at the device, for divergence, interruption and progress, whichever comes first.
FLUSH = 50  # steps
LOOK_SECONDS = 1.0


class Diverged(Exception):
    """The loss stopped being a finite number."""


class Interrupted(Exception):
    """Somebody asked to stop; the state is that of a whole step."""


def batches_of(run: RunConfig) -> Batches:
    data, key = run.data, f"{run.seed}/{run.shape_key}"
    hidden = run.model.hidden_share(training=True)
    return Batches(data.corpus().train, data.context, run.batch // data.context, key, hidden)


def advance(
    state: State,
    run: RunConfig,
    batches: Batches,
    to: int,
    factor: Callable[[int], float],
    watch: Callable[[State], None] = lambda state: None,
    micro_batch: int | None = None,
) -> None:
    """Train from `state.step` to step `to`; `factor(step)` scales the learning rate.

    `watch` is called with the state every `FLUSH` steps or second, and at the end; it may save, or raise
    Interrupted. micro_batch: sequences, for a run that does not fix it.
    Raises: Diverged.
    """
    parameters = list(state.model.parameters())  # to walk the modules in every step takes longer
    device = parameters[0].device
    lr = run.optimizer.lr
    assert lr is not None  # resolved
    clip = math.inf if run.optimizer.clip is None else run.optimizer.clip
    rows: list[tuple[int, Tensor, float, Tensor]] = []
    watches = clocks(state.model)
    start = time.perf_counter()
    while state.step < to:
        now = lr * factor(state.step)
        for group in state.optimizer.param_groups:
            group["lr"] = now * group.get("rate", 1.0)
        for clock in watches:
            clock.step, clock.active = state.step, state.step >= run.quantized_from
        ids = torch.from_numpy(batches.at(state.step)).to(device)
        loss = backward(state, ids, run.micro_batch or micro_batch)
        norm = clip_grad_norm(parameters, clip)
        state.optimizer.step()
        for parameter in parameters:
            parameter.grad = None
        rows.append((state.step, loss, now, norm))
        state.step += 1
        due = state.step % FLUSH == 0 or time.perf_counter() - start > LOOK_SECONDS
        if due or state.step == to:
            flush(state, rows)
            state.seconds += time.perf_counter() - start
            watch(state)
            start = time.perf_counter()


def backward(state: State, ids: Tensor, micro_batch: int | None) -> Tensor:
    """Gradients of the mean loss of a batch; micro-batches are summed in order. The detached loss."""
    parts = ids.split(micro_batch) if micro_batch else (ids,)
    if len(parts) == 1:
        loss = mean_loss(state, ids)
        loss.backward()
        return loss.detach().double()
    total = torch.zeros((), dtype=torch.float64, device=ids.device)
    with weights_quantized_once(state.model):
        for part in parts:
            loss = mean_loss(state, part)
            (loss / len(parts)).backward()
            total += loss.detach() / len(parts)
    return total


def mean_loss(state: State, ids: Tensor) -> Tensor:
    """Cross-entropy over a batch, nats per token that is asked for."""
    inputs, targets = pairs(state.model, ids)
    logits = state.forward(inputs)  # (B, T, vocab)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def flush(state: State, rows: list[tuple[int, Tensor, float, Tensor]]) -> None:
    """Move the rows since the last flush into the log. Raises: Diverged."""
    losses = torch.stack([r[1] for r in rows]).cpu()
    norms = torch.stack([r[3].double() for r in rows]).cpu()
    steps = torch.tensor([r[0] for r in rows], dtype=torch.float64)
    rates = torch.tensor([r[2] for r in rows], dtype=torch.float64)
    state.log.append(torch.stack([steps, losses, rates, norms], 1))
    rows.clear()
    if not math.isfinite(float(losses.sum())):
        raise Diverged(f"loss is not finite by step {state.step}")
