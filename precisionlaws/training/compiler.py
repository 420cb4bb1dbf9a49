"""torch.compile, opt-in: says in words what it lacks before it fails in pages."""

import os
import shutil
import sysconfig
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from precisionlaws.config import ConfigError


def lacking(device: str) -> str | None:
    """What torch.compile needs here and does not find, with what to do; None if nothing."""
    compiler = os.environ.get("CXX", "g++") if device == "cpu" else os.environ.get("CC", "gcc")
    if device == "cuda" and find_spec("triton") is None:
        return "triton: pip install triton"
    if shutil.which(compiler) is None:
        kind, variable = ("C++", "CXX") if device == "cpu" else ("C", "CC")
        return f"a {kind} compiler: {compiler!r} is not on the PATH; install g++ or set {variable}"
    headers = sysconfig.get_path("include")
    if not (Path(headers) / "Python.h").exists():
        return f"Python.h: {headers} has none; install the headers of Python (python3-dev)"
    return None


def compiled(model: nn.Module, device: str) -> Callable[[Tensor], Tensor]:
    """The model for training steps of one shape.

    Raises: ConfigError naming what is missing.
    """
    if missing := lacking(device):
        raise ConfigError(f"exec.compile=true needs {missing}")
    # One shape of batch per run: a second one (micro-batches, another unit) compiles anew.
    return torch.compile(model, dynamic=False)
