"""Packs: runs of equal shape that are trained as one batch.

Small models leave a device idle: launching the kernels of a step takes longer than computing them. With
weights stacked, E runs take the launches of one. Bits, learning rate, weight decay, clipping, batches
and log are each member's own; one that diverges is carried along and changes no bit of the others.

Every member is an ordinary `State` whose parameters and moments are views of the pack's tensors: what
saves, restores, evaluates or publishes a run that is trained alone does it for a member.
"""

import math
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precisionlaws.models.own import TORCH
from precisionlaws.models.parts import constrain, stack
from precisionlaws.quant.attachment import attach, weights_quantized_once
from precisionlaws.quant.members import packed
from precisionlaws.run import RunConfig
from precisionlaws.training import loop
from precisionlaws.training.compiler import compiled
from precisionlaws.training.objectives import asked, pairs
from precisionlaws.training.state import State, fresh

LANE = 64  # parameters; rows are padded to it, so that members begin at whole vectors


class Pack:
    """E members in step with each other; the lanes of `lost` ones compute on, and nobody looks."""

    def __init__(
        self,
        runs: Sequence[RunConfig],
        device: str,
        compile: bool = False,
        micro_batch: int | None = None,
        parts: str = TORCH,
    ) -> None:
        """micro_batch: sequences, for runs that do not fix it. parts: our own that are taken (models/own.py)."""
        self.runs, self.device = tuple(runs), device
        self.micro_batch = runs[0].micro_batch or micro_batch
        self.members = [fresh(run, device, parts=parts) for run in runs]
        self.model = stacked([m.model for m in self.members], runs)
        self.forward = compiled(self.model, device) if compile else self.model
        self.update = Update(self.model, self.members, runs)
        self.streams = {r.seed: loop.batches_of(r) for r in runs}
        self.lost: set[int] = set()
        self.step = 0

    def batch(self) -> Tensor:
        """Every member's batch of this step: (E, sequences, ...)."""
        found = {seed: stream.at(self.step) for seed, stream in self.streams.items()}
        return torch.from_numpy(np.stack([found[r.seed] for r in self.runs])).to(self.device)

    def take_over(self, step: int, restored: Collection[int]) -> None:
        """Go on from `step`, to which these members were restored; nobody looks at the others."""
        self.update.gather(restored)
        self.step = step


def stacked(models: Sequence[nn.Module], runs: Sequence[RunConfig]) -> nn.Module:
    """The models as one, each member quantized its own way; their parameters become views of its own."""
    pack = stack(models)
    for name, parameter in pack.named_parameters():
        for model, part in zip(models, parameter.detach(), strict=True):
            model.get_parameter(name).data = part
    return attach(
        pack,
        weights=packed([r.quant.weights for r in runs]),
        activations=packed([r.quant.activations for r in runs]),
        kv=packed([r.quant.kv for r in runs]),
    )


class Update:
    """One optimizer step of all members, on rows (E, parameters of one member).

    The optimizer of the runs, at rate 1 and without decay, turns gradients into directions; rate, decay
    and clipping are each member's own. Right where `Optim.elementwise`.
    """

    def __init__(
        self, model: nn.Module, members: Sequence[State], runs: Sequence[RunConfig]
    ) -> None:
        self.model, self.members = model, members
        groups = runs[0].optimizer.build(model).param_groups
        self.parameters: list[nn.Parameter] = [p for g in groups for p in g["params"]]
        self.sizes = [p[0].numel() for p in self.parameters]
        first, used = self.parameters[0].detach(), sum(self.sizes)
        self.rows = nn.Parameter(first.new_zeros(len(runs), -(-used // LANE) * LANE))
        self.pad = first.new_zeros(len(runs), self.rows.shape[1] - used)
        self.optimizer = directions(runs[0], self.rows)
        self.peak = first.new_tensor([[r.optimizer.lr] for r in runs])  # (E, 1), as the next two
        self.clip = first.new_tensor([[r.optimizer.clip or math.inf] for r in runs])
        self.linked = False
        self.decays: list[tuple[slice, Tensor]] = []
        start = 0
        for i, group in enumerate(groups):
            stop = start + sum(p[0].numel() for p in group["params"])
            decay = [[m.optimizer.param_groups[i]["weight_decay"]] for m in members]
            if any(d for (d,) in decay):
                self.decays.append((slice(start, stop), first.new_tensor(decay)))
            start = stop

    @torch.no_grad()
    def __call__(self, factor: float, idle: bool = False) -> Tensor:
        """Step with the gradients of the parameters, which are used up; their norms (E,) before clipping.

        idle: nothing moves; the optimizer only begins to remember.
        """
        gradients = self.join(p.grad for p in self.parameters)
        norms = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
        gradients.mul_((self.clip / (norms + 1e-6)).clamp_(max=1.0))
        self.rows.zero_()
        self.rows.grad = gradients
        self.optimizer.step()
        if not self.linked:
            self.link()
        rate = self.peak * factor
        new = self.join(self.parameters)
        for columns, decay in () if idle else self.decays:
            new[:, columns].mul_(1 - rate * decay)
        new.addcmul_(self.rows, rate)
        for p, part in zip(self.parameters, self.split(new), strict=True):
            p.copy_(part.view_as(p))
            p.grad = None
        constrain(self.model)
        return norms.squeeze(1)

    def join(self, tensors: Iterable[Tensor | None]) -> Tensor:
        """(E, ...) of every parameter -> rows"""
        return torch.cat([*(t.flatten(1) for t in tensors if t is not None), self.pad], 1)

    def split(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Rows -> (..., numel) of every parameter, views"""
        return rows.narrow(-1, 0, sum(self.sizes)).split(self.sizes, -1)

    def slots(self, e: int) -> list[dict[str, Tensor]]:
        """What the optimizer of a member alone remembers, parameter by parameter; empty before step 1."""
        optimizer = self.members[e].optimizer
        return [optimizer.state[p] for g in optimizer.param_groups for p in g["params"]]

    def link(self) -> None:
        """Make what the members' optimizers remember views of what the pack's does."""
        for key, value in self.optimizer.state[self.rows].items():
            for e, member in enumerate(self.members):
                row = [value] * len(self.sizes) if value.dim() == 0 else self.split(value[e])
                for slots, part, p in zip(
                    self.slots(e), row, member_parameters(member), strict=True
                ):
                    slots[key] = part if part.dim() == 0 else part.view_as(p)
        self.linked = True

    def gather(self, restored: Collection[int]) -> None:
        """The reverse, after members were restored: what all share, the count of steps, is theirs.

        A member without memory (a passenger) gets zeros."""
        known = [self.slots(e) for e in range(len(self.members))]
        keys = {k for e in restored for k in known[e][0]}
        memory = self.optimizer.state[self.rows]
        memory.clear()
        self.linked = False
        for key in keys:
            some = next(known[e][0][key] for e in restored if known[e][0])
            memory[key] = some.clone() if some.dim() == 0 else torch.zeros_like(self.rows)
            if some.dim():
                for row, slots in zip(memory[key], known, strict=True):
                    if slots[0]:
                        torch.cat([s[key].flatten() for s in slots], out=row[: sum(self.sizes)])
        if keys:
            self.link()


def member_parameters(member: State) -> list[Tensor]:
    return [p for g in member.optimizer.param_groups for p in g["params"]]


def directions(run: RunConfig, rows: nn.Parameter) -> torch.optim.Optimizer:
    """The optimizer of a run over `rows`, at rate 1 and without decay."""
    optimizer = replace(run.optimizer, lr=1.0).build(nn.ParameterDict({"rows": rows}))
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
    return optimizer


def advance(
    pack: Pack,
    working: set[int],
    to: int,
    factor: Callable[[int], float],
    watch: Callable[[Pack], None] = lambda pack: None,
) -> None:
    """Train from `pack.step` to step `to`; `factor(step)` scales every member's learning rate.

    working: members whose losses count; those that diverge are added to `pack.lost`, and nothing more is
    logged of them. `watch` is called as in loop.advance. Raises: loop.Diverged when all have.
    """
    rows: list[tuple[int, float, Tensor, Tensor]] = []
    start = time.perf_counter()
    while pack.step < to:
        losses = backward(pack, pack.batch())
        now, idle = factor(pack.step), pack.step < pack.runs[0].optim.IDLE
        rows.append((pack.step, now, losses, pack.update(now, idle)))
        pack.step += 1
        due = pack.step % loop.FLUSH == 0 or time.perf_counter() - start > loop.LOOK_SECONDS
        if due or pack.step == to:
            flush(pack, working - pack.lost, rows, start)
            watch(pack)
            start = time.perf_counter()


def backward(pack: Pack, ids: Tensor) -> Tensor:
    """Gradients of every member's mean loss; micro-batches are summed in order. Losses (E,), detached."""
    parts = ids.split(pack.micro_batch, 1) if pack.micro_batch else (ids,)
    if len(parts) == 1:
        losses = mean_losses(pack, ids)
        losses.sum().backward()  # to each member its own mean: no gradient crosses lanes
        return losses.detach().double()
    total = torch.zeros(len(ids), dtype=torch.float64, device=ids.device)
    with weights_quantized_once(pack.model):
        for part in parts:
            losses = mean_losses(pack, part)
            (losses / len(parts)).sum().backward()
            total += losses.detach() / len(parts)
    return total


def mean_losses(pack: Pack, ids: Tensor) -> Tensor:
    """Cross-entropy over each member's batch: (E, B, ...) -> (E,), nats per token that is asked for."""
    inputs, targets = pairs(pack.model, ids)
    logits = pack.forward(inputs)  # (E, B, T, vocab)
    token = F.cross_entropy(logits.flatten(0, 2), targets.flatten(), reduction="none")
    return token.view(len(ids), -1).mean(1) / asked(targets)


def flush(
    pack: Pack, working: set[int], rows: list[tuple[int, float, Tensor, Tensor]], start: float
) -> None:
    """Move the rows since the last flush into the members' logs. Raises: loop.Diverged."""
    losses = torch.stack([r[2] for r in rows]).cpu()  # (n, E)
    norms = torch.stack([r[3] for r in rows]).double().cpu()
    steps, factors = torch.tensor([r[:2] for r in rows], dtype=torch.float64).unbind(1)
    rows.clear()
    seconds = (time.perf_counter() - start) / max(1, len(working))
    for e in working:
        member, lr = pack.members[e], pack.runs[e].optimizer.lr or 0.0
        member.log.append(torch.stack([steps, losses[:, e], lr * factors, norms[:, e]], 1))
        member.step, member.seconds = pack.step, member.seconds + seconds
        if not math.isfinite(float(losses[:, e].sum())):
            pack.lost.add(e)
    if working <= pack.lost:
        raise loop.Diverged(f"no member's loss is finite by step {pack.step}")
