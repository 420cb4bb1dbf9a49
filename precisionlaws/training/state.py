"""What the next step depends on besides the config, and its way to disk and back.

Everything is a tensor in one safetensors file, so that a run that was killed goes on bit for bit where
its last checkpoint stands.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from precisionlaws import store
from precisionlaws.config import ConfigError
from precisionlaws.models.parts import initialize
from precisionlaws.quant import attach
from precisionlaws.run import RunConfig

LOG = ("step", "loss", "lr", "grad_norm")  # one row per step


@dataclass
class State:
    """A model in training. `log` rows are (step, loss, lr, grad_norm)."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0  # of training so far, over all interruptions
    log: list[Tensor] = field(default_factory=list)

    def tensors(self) -> dict[str, Tensor]:
        """Model, optimizer and log by name; views of the live tensors."""
        out = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            out |= {f"optim.{index}.{key}": torch.as_tensor(v) for key, v in slots.items()}
        return out | {"log": self.log_table()}

    def log_table(self) -> Tensor:
        if len(self.log) != 1:
            self.log = (
                [torch.cat(self.log)]
                if self.log
                else [torch.empty(0, len(LOG), dtype=torch.float64)]
            )
        return self.log[0]

    def restore(self, tensors: Mapping[str, Tensor], step: int, seconds: float) -> None:
        """Take over a snapshot of `tensors()`."""
        self.model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optim."):
                _, index, key = name.split(".", 2)
                slots.setdefault(int(index), {})[key] = value.clone()
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        self.step, self.seconds, self.log = step, seconds, [tensors["log"].clone()]

    def snapshot(self) -> tuple[dict[str, Tensor], int, float]:
        return {k: v.clone() for k, v in self.tensors().items()}, self.step, self.seconds


def model_of(run: RunConfig, device: str) -> nn.Module:
    """The model of a run with its quantizers, initialized."""
    model = run.model.build(run.size, run.data.vocab, run.data.context)
    initialize(model, run.seed)
    model = attach(
        model, weights=run.quant.weights, activations=run.quant.activations, kv=run.quant.kv
    )
    return model.to(device=device, dtype=getattr(torch, run.dtype))


def fresh(run: RunConfig, device: str) -> State:
    """Step 0 of a run."""
    model = model_of(run, device)
    return State(model, run.optimizer.build(model))


def save(state: State, path: Path, facts: str) -> None:
    """facts: names the code and machine; another one's checkpoint is not gone on from."""
    meta = {"step": str(state.step), "seconds": repr(state.seconds), "facts": facts}
    tensors = {k: v.detach().contiguous().cpu() for k, v in state.tensors().items()}
    store.write(path, save_tensors(tensors, meta))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a safetensors file.

    Raises: ConfigError naming the file when it is damaged.
    """
    try:
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        meta = json.loads(data[8 : 8 + length]).get("__metadata__", {})
        return load_tensors(data), meta
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(
            f"checkpoint {path} cannot be read: {str(error).splitlines()[0]}"
        ) from None


def resume(state: State, path: Path, facts: str) -> bool:
    """Go on from a checkpoint; False if other code or another machine wrote it.

    Raises: ConfigError when it is damaged or of another model.
    """
    tensors, meta = read(path)
    if meta.get("facts") != facts:
        return False
    try:
        state.restore(tensors, int(meta["step"]), float(meta["seconds"]))
        return True
    except (KeyError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"checkpoint {path} does not fit its run: {str(error).splitlines()[0]}"
        ) from None
