"""H, the mean of x xᵀ over the inputs x of every linear of the blocks, in one pass over calibration tokens.

Only H is kept (float64), never an activation, and linears that read the same tensor share one: q, k, v
and gate, up. Linears are watched from outside by hooks, so x is what they multiply, after any quantizer of
activations. Calibration tokens are training tokens: what losses are measured on is held out from both.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from precisionlaws.config import ConfigError
from precisionlaws.data.base import Data
from precisionlaws.data.batches import Batches
from precisionlaws.models.parts import linears
from precisionlaws.quant.attachment import QuantTorchLinear

CHUNK = 4096  # tokens whose activations are in memory at once


@dataclass(frozen=True)
class Calibration:
    """hessians: by name of linear; equal inputs share a tensor. sequences: (sequences, context) tokens, for
    methods that run the model on them again."""

    hessians: Mapping[str, Tensor]
    tokens: int
    digest: str  # 12 hex over the token sequences
    sequences: Tensor

    def info(self) -> dict[str, Any]:
        return {"calibration": self.digest, "calibration_tokens": self.tokens}


def sample(data: Data, tokens: int, seed: int) -> np.ndarray:
    """Training sequences of at least `tokens` tokens, equal for all runs on `data`: (sequences, context).

    Raises: ConfigError if there are not so many training tokens.
    """
    train, sequences = data.corpus().train, -(-tokens // data.context)
    batches = Batches(train, data.context, sequences, f"calibration/{seed}")
    if sequences > batches.windows:
        raise ConfigError(
            f"ptq.calibration_tokens must be at most the {batches.windows * data.context} training "
            f"tokens of {data.origin()}, got {tokens}"
        )
    return batches.at(0)[:, :-1]


def calibrate(model: nn.Module, sequences: np.ndarray) -> Calibration:
    """One pass of `model` over token sequences (sequences, context)."""
    device = next(model.parameters()).device
    ids = torch.from_numpy(np.ascontiguousarray(sequences))
    chunks = ids.split(max(1, CHUNK // ids.shape[1]))
    name = hashlib.sha256(f"{ids.shape}".encode() + ids.numpy().tobytes()).hexdigest()[:12]
    means = hessians(model, (c.to(device).long() for c in chunks))
    return Calibration(means, ids.numel(), name, ids)


@torch.no_grad()
def hessians(model: nn.Module, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """H (in, in) float64 of every linear of the blocks, over a stream of inputs of `model`.

    Raises: ConfigError naming a linear that no input reached.
    """
    was_training, found, stream = model.training, dict(linears(model)), iter(batches)
    model.eval()
    try:
        first = next(stream)
        leaders = sharing(model, found, first[:1])
        sums = {name: Sum(found[name].weight) for name in set(leaders.values())}
        with watched({found[name]: total.add for name, total in sums.items()}):
            for batch in chain([first], stream):
                model(batch)
    finally:
        model.train(was_training)
    means = {name: total.mean(name) for name, total in sums.items()}
    return {name: means[leader] for name, leader in leaders.items()}


def sharing(model: nn.Module, found: Mapping[str, nn.Module], probe: Tensor) -> dict[str, str]:
    """Name of linear -> the first linear that reads the same tensors, found by one small forward pass."""
    seen: dict[nn.Module, list[Tensor]] = {m: [] for m in found.values()}
    with watched({m: calls.append for m, calls in seen.items()}):
        model(probe)
    # The tensors are all alive here, so their ids differ.
    leaders: dict[tuple[Any, ...], str] = {}
    return {
        name: leaders.setdefault(tuple((id(x), x._version) for x in seen[module]) or (name,), name)
        for name, module in found.items()
    }


@contextmanager
def watched(watchers: Mapping[nn.Module, Callable[[Tensor], Any]]) -> Iterator[None]:
    """Every watcher is called with what its linear multiplies, in every forward pass."""

    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        own = isinstance(module, QuantTorchLinear)
        watchers[module](module.inputs(inputs[0]) if own else inputs[0])

    with ExitStack() as stack:
        for module in watchers:
            stack.callback(module.register_forward_pre_hook(hook).remove)
        yield


class Sum:
    """Σ x xᵀ and how many x."""

    def __init__(self, weight: Tensor) -> None:
        n = weight.shape[-1]
        self.total = torch.zeros(n, n, dtype=torch.float64, device=weight.device)
        self.count = 0

    def add(self, x: Tensor) -> None:
        for part in x.reshape(-1, len(self.total)).split(CHUNK):
            self.count += len(part)
            part = part.double()
            self.total.addmm_(part.T, part)

    def mean(self, name: str) -> Tensor:
        if not self.count:
            raise ConfigError(f"no calibration input reached {name}")
        return self.total / self.count
