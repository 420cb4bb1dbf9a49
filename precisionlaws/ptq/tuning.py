"""Fine-tuning after QuIP#: signs become real vectors, and what is not rounded yet makes up for what is.

Tseng et al. 2024 (arXiv:2402.04396), section 5, in two stages. *By blocks*: matrix after matrix of a block is
quantized, and after each the vectors of signs of those that are, the weights of those that are not, and the
norms are trained so that the block gives what it gave, in mean square, for the inputs it had. *End to end*:
all vectors and norms are trained so that the model says what it said: the mean Kullback-Leibler divergence of
its predictions from those before. Embedding and head stay as they are.

A quarter of the calibration sequences is never trained on. By them the best epoch is kept, each stage only if
the whole model gains, and rounding without fine-tuning where nothing gains. Vectors are stored in float16, and
losses are those of what is stored.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call

from precisionlaws.config import ConfigError
from precisionlaws.models.parts import linears
from precisionlaws.ptq.base import Quantized
from precisionlaws.ptq.blocks import quantized
from precisionlaws.ptq.descent import BATCH, HELD_OUT, descend, mean, sides
from precisionlaws.ptq.incoherence import Rotation
from precisionlaws.ptq.matrices import generator, one_by_one
from precisionlaws.quant.attachment import QuantLinear, QuantTorchLinear

if TYPE_CHECKING:
    from precisionlaws.ptq.calibration import Calibration
    from precisionlaws.ptq.quip_sharp import QuipSharp

EPOCHS = {"block": 4, "end_to_end": 8}


@dataclass(frozen=True)
class Matrix:
    """A quantized matrix; `outputs` and `inputs`, its vectors of signs, are trained in place."""

    start: Quantized
    points: Tensor  # (out, in filled up): what codes stand for, times the scale
    outputs: Tensor
    inputs: Tensor

    @staticmethod
    def of(spec: "QuipSharp", q: Quantized) -> "Matrix":
        shape = q.weight.shape
        rotation, points = spec.rotation(q.payload, shape), spec.points(q.payload, shape)
        to = q.weight.device
        return Matrix(q, points.to(to), rotation.outputs.to(to), rotation.inputs.to(to))

    def weight(self) -> Tensor:
        """(out, in) as its payload will decode, with gradients as if vectors were not rounded"""
        vectors = [v + (v.half().float() - v).detach() for v in (self.outputs, self.inputs)]
        W = self.start.weight
        return Rotation(*vectors).back(self.points)[:, : W.shape[1]].to(W.dtype)

    def stored(self, spec: "QuipSharp", W: Tensor, H: Tensor) -> Quantized:
        """W (out, in): as it was trained, before anything was rounded."""
        q, vectors = self.start, {"outputs": self.outputs, "inputs": self.inputs}
        payload = {k: t for k, t in q.payload.items() if k != "signs"}
        payload |= {k: v.half().cpu() for k, v in vectors.items()}
        info = {k: v for k, v in q.info.items() if k != "warning"}
        return quantized(W, spec.decode(payload, W.shape), H, spec.bits, payload, info)


@dataclass(frozen=True)
class State:
    """A quantized model: its matrices by name of linear, its norms by name of parameter."""

    matrices: Mapping[str, Matrix]
    norms: Mapping[str, Tensor]

    def vectors(self) -> list[Tensor]:
        return [v for m in self.matrices.values() for v in (m.outputs, m.inputs)]

    def parameters(self) -> dict[str, Tensor]:
        return {**self.norms, **{f"{n}.weight": m.weight() for n, m in self.matrices.items()}}


@dataclass(frozen=True)
class Tuner:
    """before: the parameters of `model` as trained; ids (sequences, context)."""

    spec: "QuipSharp"
    model: nn.Module
    before: Mapping[str, Tensor]
    hessians: Mapping[str, Tensor]
    ids: Tensor

    def norms(self) -> dict[str, Tensor]:
        return {n: p.clone() for n, p in self.before.items() if p.dim() == 1}

    def says(self, rows: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        out = functional_call(self.model, {**self.before, **parameters}, (self.ids[rows],))
        return (out if isinstance(out, Tensor) else out.logits).float().log_softmax(-1)

    def divergence(self, rows: Tensor, state: State) -> Tensor:
        """of predictions for these sequences from those before, in nats per token"""
        with torch.no_grad():
            wanted = self.says(rows, {})
        return (wanted.exp() * (wanted - self.says(rows, state.parameters()))).sum(-1).mean()

    def end_to_end(self, state: State) -> None:
        def loss(rows: Tensor) -> Tensor:
            return self.divergence(rows, state)

        descend(
            loss, [*state.vectors(), *state.norms.values()], len(self.ids), EPOCHS["end_to_end"]
        )

    def by_blocks(self, seed: int) -> State:
        matrices, norms = {}, self.norms()
        for prefix, block in self.model.get_submodule("blocks").named_children():
            done = self.block(f"blocks.{prefix}.", block, seed)
            matrices |= done.matrices
            norms |= done.norms
        return State(matrices, norms)

    def block(self, prefix: str, block: nn.Module, seed: int) -> State:
        own = {n: p for n, p in self.before.items() if n.startswith(prefix)}
        names = [n for n, _ in linears(self.model) if n.startswith(prefix)]
        rest = {f"{n}.weight": own[f"{n}.weight"].clone() for n in names}
        state = State({}, {n: p.clone() for n, p in own.items() if p.dim() == 1})
        given, wanted = self.passing(block)
        power = wanted.square().mean()

        def loss(rows: Tensor) -> Tensor:
            values = {**own, **rest, **state.parameters()}
            local = {n.removeprefix(prefix): v for n, v in values.items()}
            compute = getattr(self.model, "compute", None)
            with torch.autocast(self.ids.device.type, compute, enabled=compute is not None):
                found = functional_call(block, local, (given[rows],))
            return (found - wanted[rows]).square().mean() / power

        for name in names:
            W = rest.pop(f"{name}.weight")
            try:
                q = self.spec.quantize(W, self.hessians[name], generator(seed, name))
            except ConfigError as error:
                raise ConfigError(f"{name}: {error}") from None
            state = replace(state, matrices={**state.matrices, name: Matrix.of(self.spec, q)})
            trained = [*state.vectors(), *state.norms.values(), *rest.values()]
            descend(loss, trained, len(self.ids), EPOCHS["block"])
        return state

    def passing(self, block: nn.Module) -> tuple[Tensor, Tensor]:
        """What `block` gets and gives in the model as it was: (sequences, context, width) each"""
        given, wanted = [], []

        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            given.append(inputs[0])
            wanted.append(output)

        handle = block.register_forward_hook(hook)
        try:
            for rows in torch.arange(len(self.ids)).split(BATCH):
                self.says(rows, {})
        finally:
            handle.remove()
        return torch.cat(given), torch.cat(wanted)


def quantize_model(
    spec: "QuipSharp", model: nn.Module, calibration: "Calibration", seed: int
) -> dict[str, Quantized]:
    """As `Ptq.quantize_model`. Raises: ConfigError before anything is touched."""
    check(spec.finetune, model, calibration.sequences)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    ids = calibration.sequences.to(next(model.parameters()).device).long()
    tuner = Tuner(spec, model, before, calibration.hessians, ids)
    out = one_by_one(spec, model, calibration, seed)
    plain = State({n: Matrix.of(spec, q) for n, q in out.items()}, tuner.norms())
    test = sides(len(ids))[1]

    def held_out(state: State) -> float:
        return mean(lambda rows: tuner.divergence(rows, state), test)

    start = best = held_out(plain)
    state = plain
    if spec.finetune in ("blocks", "both"):
        tuned = tuner.by_blocks(seed)
        if (now := held_out(tuned)) < start:
            state, best = tuned, now
    if spec.finetune in ("end_to_end", "both"):
        tuner.end_to_end(state)
        best = held_out(state)
    if best < start:
        H = calibration.hessians
        out = {n: m.stored(spec, before[f"{n}.weight"], H[n]) for n, m in state.matrices.items()}
        values = {**state.norms, **{f"{n}.weight": q.weight for n, q in out.items()}}
        for name, value in values.items():
            model.get_parameter(name).copy_(value)
    said = {"divergence_untuned": start, "divergence": best}
    return {n: replace(q, info={**q.info, **said}) for n, q in out.items()}


def check(finetune: str, model: nn.Module, sequences: Tensor) -> None:
    """Raises: ConfigError for too few sequences, weights quantized on their way, or no blocks."""
    if any(isinstance(m, (QuantLinear, QuantTorchLinear)) for _, m in linears(model)):
        raise ConfigError("finetune must be none for linears that quantize, got " + finetune)
    if len(sequences) < HELD_OUT:
        raise ConfigError(
            f"calibration_tokens must be at least {HELD_OUT} sequences with finetune={finetune}, "
            f"got {len(sequences)}"
        )
    names = [n for n, _ in linears(model)]
    if finetune != "end_to_end" and not all(n.startswith("blocks.") for n in names):
        raise ConfigError(f"finetune={finetune} needs all linears in `blocks` of the model")
