"""Contracts of conf/format and conf/quant, found by globbing: every yaml builds, presets only choose."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from precisionlaws.config import ConfigError, Spec, build, plain
from precisionlaws.overrides import option
from precisionlaws.quant import fake_quantize
from precisionlaws.quant.formats.base import Format
from precisionlaws.quant.roles import Quant

CONF = Path(__file__).resolve().parents[2] / "conf"
MINE = ("format", "quant", "model", "size", "optim", "lr_schedule", "ptq")
FORMATS = sorted(p.stem for p in (CONF / "format").glob("*.yaml"))
PRESETS = sorted(p.stem for p in (CONF / "quant").glob("*.yaml"))


def quant(name: str, **formats: Any) -> Quant:
    spec = build(option("quant", name) | formats, Quant)
    assert isinstance(spec, Quant)
    return spec


@pytest.mark.parametrize(
    "path", [p for g in MINE for p in sorted((CONF / g).glob("*.yaml"))], ids=str
)
def test_every_yaml_builds_and_comes_back(path: Path) -> None:
    text = path.read_text()
    assert "@package" not in text
    assert "${" not in text
    node = yaml.safe_load(text)
    assert "_self_" in node.get("defaults", ["_self_"])
    assert path.stem not in ("on", "off", "yes", "no", "null")
    spec = build(option(path.parent.name, path.stem), Spec)
    assert build(plain(spec), Spec) == spec


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_rounds(name: str) -> None:
    node = option("format", name)
    widths = [{"bits": b} for b in (3, 8, 16) if b > (node.get("exponent") or 0)]
    for bits in widths if "bits" in node else [{}]:
        f = build(node | bits, Format)
        assert isinstance(f, Format)
        x = torch.randn(6, 64, generator=torch.Generator().manual_seed(1), requires_grad=True)
        y = fake_quantize(x, f)
        if not f.off:  # its other laws: test_formats.py
            assert torch.equal(f.round(y, f.scales(x)), y)
        assert y.requires_grad
        assert f.off == (f.bits == 16) == torch.equal(x, y)


@pytest.mark.parametrize("name", [p for p in PRESETS if p != "roles"])
def test_presets_only_choose_formats(name: str) -> None:
    """And a rotation, which is of no format; values of formats would leak into the next one chosen."""
    node = yaml.safe_load((CONF / "quant" / f"{name}.yaml").read_text())
    assert set(node) - {"rotation"} == {"defaults"}


def test_presets_are_the_modes_they_name() -> None:
    assert [quant(n).mode for n in ("none", "qat", "low_precision")] == [
        "none",
        "qat",
        "low_precision",
    ]
    assert [quant(n).label() for n in ("none", "qat", "low_precision")] == ["fp", "w4", "w8a8kv8"]
    kumar = quant("kumar")
    parts = (kumar.weights, kumar.activations, kumar.kv)
    assert [getattr(p, "granularity", None) for p in parts] == ["row", "tensor", "row"]


def test_all_roles_off_is_no_quantization() -> None:
    assert quant("none").normal() is None
    assert quant("kumar").normal() is None
    form = quant("qat").normal()
    assert form
    assert set(form) == {"is", "weights"}


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("start", 5, "start must be 0 to 0.99, got 5"),
        (
            "rotation",
            "hadamar",
            "rotation must be one of none, hadamard, got hadamar; did you mean",
        ),
        ("wieghts", {}, "wieghts: no such field; did you mean 'weights'"),
    ],
)
def test_errors(field: str, value: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        quant("none", **{field: value})


def test_specs_never_import_torch() -> None:
    code = """
import sys
import yaml
from precisionlaws.overrides import option
from precisionlaws.config import build, normal_json
from precisionlaws.models.base import Size
from precisionlaws.models.count import forward_flops
import precisionlaws.quant, precisionlaws.ptq, precisionlaws.kernels
specs = {g: build(option(g, n)) for g, n in [("model", "llama"), ("size", "20k"), ("format", "int4"),
    ("quant", "low_precision"), ("optim", "adamw"), ("lr_schedule", "wsd"), ("ptq", "none"), ("ptq", "rtn")]}
[normal_json(s) for s in specs.values()]
specs["optim"].resolved(20480, 32, 1024)
specs["model"].resolved(specs["size"])
gpt, cosine = build(option("model", "gpt")), build(option("lr_schedule", "cosine"))
forward_flops(gpt, specs["size"], 256, 128), cosine.factor(3, 10)
specs["lr_schedule"].factor(3, 10)
specs["quant"].weights.bits_effective(specs["model"].matrices(specs["size"]))
forward_flops(specs["model"], specs["size"], 256, 128)
assert "torch" not in sys.modules
from precisionlaws.quant import attach, fake_quantize
from precisionlaws.ptq import apply
assert callable(attach) and callable(fake_quantize) and callable(apply)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
