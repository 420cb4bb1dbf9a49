"""What the next step depends on besides the config, and its way to disk and back.

Everything is a tensor in one safetensors file, so that a run that was killed goes on bit for bit where
its last checkpoint stands.
"""

import json
from collections.abc import Callable, Mapping
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
from precisionlaws.models.own import TORCH
from precisionlaws.models.parts import Decoder, choose, initialize
from precisionlaws.quant import attach
from precisionlaws.quant.noise import Clock
from precisionlaws.quant.roles import ROLES
from precisionlaws.run import RunConfig
from precisionlaws.training.compiler import compiled

LOG = ("step", "loss", "lr", "grad_norm")  # one row per step


@dataclass
class State:
    """A model in training. `log` rows are (step, loss, lr, grad_norm)."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    forward: Callable[[Tensor], Tensor]  # the model, or what a compiler made of it
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
    """The model of a run with its quantizers, initialized, computing in the run's precision.

    Raises: ConfigError if the device has no such precision.
    """
    model = run.model.build(run.size, run.data.vocab, run.data.context)
    if run.multipliers is not None:
        run.multipliers.apply(model)
    initialize(model, run.seed)
    quant, clock = run.quant, Clock(run.seed)
    roles = {role: getattr(quant, role) for role in ROLES}
    model = attach(model, **roles, rotation=quant.rotation, clock=clock)
    set_precision(model, run.dtype, device)
    return model.to(device=device, dtype=torch.float64 if run.dtype == "float64" else torch.float32)


def set_precision(model: nn.Module, dtype: str, device: str) -> None:
    """Everything is fp32 but products of matrices, which take their inputs in bfloat16 or tf32.

    tf32 is a switch of the whole process; every model of a run passes here, so none inherits it.
    """
    if dtype == "tf32" and device == "cpu":
        raise ConfigError("dtype=tf32 needs a GPU, and this run is on a CPU: use dtype=float32")
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    if dtype == "bfloat16":
        if not isinstance(model, Decoder):
            raise ConfigError(f"dtype=bfloat16: {type(model).__name__} has no autocast of its own")
        model.compute = torch.bfloat16


def fresh(run: RunConfig, device: str, compile: bool = False, parts: str = TORCH) -> State:
    """Step 0 of a run. compile: train through torch.compile. parts: our own that are taken."""
    model = model_of(run, device)
    choose(model, parts)
    forward = compiled(model, device) if compile else model
    return State(model, run.optimizer.build(model, run.multipliers), forward)


def save(state: State, path: Path, facts: str) -> None:
    """facts: names the code and machine; another one's checkpoint is not gone on from."""
    meta = {"step": str(state.step), "seconds": repr(state.seconds), "facts": facts}
    # Copies: members of a pack share the optimizer's count of steps, and a file has no shared tensors.
    tensors = {k: v.detach().contiguous().cpu().clone() for k, v in state.tensors().items()}
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
            f"checkpoint {path} cannot be read: {str(error).splitlines()[0]}; remove it to train that part again"
        ) from None


def resume(state: State, path: Path, facts: str) -> bool:
    """Go on from a checkpoint; False if other code or another machine wrote it.

    Raises: ConfigError when it is damaged or of another model.
    """
    if not path.exists():  # another worker's housekeeping
        return False
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
