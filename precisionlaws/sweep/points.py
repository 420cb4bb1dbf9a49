"""A study: what `sweeps/NAME.yaml` and the command line ask for, as a list of points.

A block of `points:` maps places to Hydra value text (`size: 7k,20k`); the product of a block is a set of
jobs, the union of the blocks is the study, and every run comes with its unquantized point. Overrides on
the command line replace the same key in every block.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from precisionlaws.config import ConfigError, build, nearest
from precisionlaws.models.count import shapes
from precisionlaws.overrides import CONF, expand
from precisionlaws.ptq.base import Ptq, eval_id
from precisionlaws.quant.roles import OFF
from precisionlaws.run import Exec, Launcher, RunConfig, located, run_id

SWEEPS = CONF.parent / "sweeps"
KEYS = {"points", "fit", "plot", "questions"}
PARTS = {"ptq": Ptq, "exec": Exec, "launcher": Launcher}


@dataclass(frozen=True)
class Point:
    """One loss: a run, or a run with one PTQ."""

    run_id: str
    eval_id: str
    run: RunConfig
    ptq: Ptq


@dataclass(frozen=True, kw_only=True)
class Study:
    """Points in a fixed order without duplicates, how to compute them, and what to make of them."""

    name: str
    points: tuple[Point, ...]
    exec: Exec
    launcher: Launcher
    fit: tuple[str, ...] = ()
    plot: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    budget: str = ""  # names what it was trimmed by: sweep/recorded.py keeps the cut


def study(name: str, overrides: Iterable[str] = ()) -> Study:
    """The study in `sweeps/NAME.yaml` or in a yaml file.

    Raises: ConfigError for an unknown study, key, field or value.
    """
    node = read(name)
    overrides = list(overrides)
    mine: dict[str, str] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"cannot read override {text!r}: write FIELD=VALUE, e.g. size=7k,20k")
        mine[key] = value
    jobs = [expand(block_texts(b, mine), "job", RunConfig, PARTS) for b in node["points"]]
    points: dict[tuple[str, str], Point] = {}
    for runs, parts in jobs:
        for run in runs:
            for ptq in wanted(parts["ptq"]):
                point = Point(run_id(run), eval_id(ptq), run, allowed(run, ptq))
                points.setdefault((point.run_id, point.eval_id), point)
    lists: dict[str, Any] = {
        key: texts(name, key, node.get(key, [])) for key in ("fit", "plot", "questions")
    }
    for law in lists["fit"]:
        if not (CONF / "law" / f"{law}.yaml").is_file():
            known = [p.stem for p in (CONF / "law").glob("*.yaml")]
            raise ConfigError(f"{name}: fit: no law {law!r}{nearest(law, known)}")
    launcher: Launcher = the_one("launcher", [p["launcher"] for _, p in jobs])
    return Study(
        name=Path(name).stem,
        points=tuple(points.values()),
        exec=launcher.placed(the_one("exec", [p["exec"] for _, p in jobs])),
        launcher=launcher,
        overrides=tuple(overrides),
        **lists,
    )


def read(name: str) -> Mapping[str, Any]:
    path = Path(name) if name.endswith((".yaml", ".yml")) else SWEEPS / f"{name}.yaml"
    if not path.is_file():
        known = [p.stem for p in SWEEPS.glob("*.yaml")]
        raise ConfigError(f"no study {name!r}{nearest(name, known)} (or give a .yaml file)")
    try:
        node = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if (
        not isinstance(node, Mapping)
        or not isinstance(node.get("points"), list)
        or not node["points"]
    ):
        raise ConfigError(
            f"{path} must hold `points:`, a list of blocks such as {{size: '7k,20k'}}"
        )
    for key in node:
        if key not in KEYS:
            raise ConfigError(f"{path}: {key}: no such key{nearest(key, KEYS)}")
    return node


def block_texts(block: Any, mine: Mapping[str, str]) -> list[str]:
    if not isinstance(block, Mapping):
        raise ConfigError(
            f"a block of points must be a mapping such as {{size: '7k,20k'}}, got {block!r}"
        )
    return [f"{k}={v}" for k, v in ({str(k): v for k, v in block.items()} | dict(mine)).items()]


def texts(name: str, key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise ConfigError(f"{name}: {key} must be a list of words")
    return tuple(value)


def the_one(part: str, blocks: list[list[Any]]) -> Any:
    """exec and launcher are of the sweep, not of its points."""
    found = {value for block in blocks for value in block}
    if len(found) > 1:
        raise ConfigError(f"{part} cannot be swept: one setting serves a whole study")
    return found.pop()


def wanted(ptqs: Sequence[Ptq]) -> list[Ptq]:
    """The PTQs, after the unquantized points that they are compared with."""
    phases = ["final", *(["stable"] if any(p.phase == "stable" for p in ptqs) else [])]
    return [*map(nothing, phases), *ptqs]


@functools.cache
def nothing(phase: str = "final") -> Ptq:
    from precisionlaws.overrides import option

    return build(option("ptq", "none") | {"phase": phase}, Ptq, "ptq")  # type: ignore[return-value]


def allowed(run: RunConfig, ptq: Ptq) -> Ptq:
    if ptq.phase == "stable" and run.lr_schedule.TRUNK is None:
        raise ConfigError(
            f"ptq.phase=stable: lr_schedule={run.lr_schedule.SHORT} has no stable phase; use lr_schedule=wsd"
        )
    trained = run.quant.weights
    if ptq.normal() is not None and not trained.off and ptq.bits >= trained.bits:
        raise ConfigError(
            f"ptq.bits={ptq.bits:g} of a run whose weights were trained at {trained.bits:g} bits: they are "
            "quantized already, and only fewer bits change them; set ptq in a block of its own"
        )
    if ptq.normal() is not None and run.quant.rotated:
        raise ConfigError(
            f"ptq={ptq.SHORT} of a run with quant.rotation=hadamard: PTQ rounds weights as they are stored, and "
            "this run multiplies rotated ones; choose runs with quant.rotation=none"
        )
    rounded(run, ptq)
    for name, out, inner in shapes(run.model, run.size):
        located("ptq", ptq.check, (out, inner), name)
    return ptq


def rounded(run: RunConfig, ptq: Ptq) -> RunConfig:
    """A run that computes as `run` does after `ptq`, but for the weights, which are given.

    Raises: ConfigError if activations or KV were trained at few bits already, or cannot be rounded.
    """
    quant = replace(run.quant, weights=OFF)
    for role, name in (("activations", "activation_bits"), ("kv", "kv_bits")):
        bits, trained = getattr(ptq, name), getattr(run.quant, role)
        if bits != 16 and not trained.off:
            raise ConfigError(
                f"ptq.{name}={bits} of a run whose {role} were trained at {trained.bits:g} bits: they are "
                "rounded already"
            )
        quant = quant if bits == 16 else replace(quant, **{role: replace(OFF, bits=bits)})
    return run if quant == run.quant else replace(run, quant=quant)
