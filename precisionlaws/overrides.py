"""Hydra overrides -> Specs: the whole override grammar, at the price of one compose.

A full Hydra compose costs 0.1-0.3 s, so a grid of thousands of points is not composed point by point.
Overrides are collected per part (`size`, `quant.weights`, ...), each part variant is built and checked
once, and parts are combined. The result equals a full compose (tests/test_overrides.py samples it).
Hydra's own messages are never shown: keys and options are looked up in the Specs and in `conf/` first.
"""

import functools
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from precisionlaws.config import (
    ConfigError,
    Spec,
    check,
    hints,
    join,
    located,
    nearest,
    neutral_of,
    target,
    unknown_field,
)

CONF = Path(__file__).resolve().parent / "conf"
MOST_VALUES, MOST_POINTS = (
    100_000,
    1_000_000,
)  # of one field, of one block: beyond is a typing mistake
REFERENCE = re.compile(r"\$\{([\w.]+)\}")


@dataclass(frozen=True)
class Axis:
    """One override: the values a place takes; `group` when they are options, not values."""

    place: str
    group: str | None
    values: tuple[Any, ...]


@functools.cache
def loader() -> Any:
    """A loader of our own: hydra.compose() needs the process-wide GlobalHydra, which may be a user's.

    Private API of Hydra 1.3, pinned in pyproject.toml and tested.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_config_search_path
    from hydra.core.plugins import Plugins

    Plugins.instance()  # registers the file:// source
    return ConfigLoaderImpl(create_config_search_path(f"file://{CONF}"))


def load(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The plain node of a primary config, as Hydra composes it."""
    from hydra.types import RunMode
    from omegaconf import OmegaConf, open_dict

    node = loader().load_configuration(name, list(overrides), run_mode=RunMode.RUN)
    with open_dict(node):
        del node["hydra"]  # before resolving: it holds interpolations of its own
    return OmegaConf.to_container(node, resolve=True)  # type: ignore[return-value]


def options(group: str) -> list[str]:
    return loader().get_group_options(group)


@functools.cache
def option(group: str, name: str) -> dict[str, Any]:
    """One option of a group as a plain node, whatever place it will take."""
    known = options(group)
    if name not in known:
        raise ConfigError(
            f"{group}={name}: unknown {group}{nearest(name, known)} (has {', '.join(known)})"
        )
    return load(f"{group}/{name}")[group.split("/")[-1]]


@functools.cache
def base(name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The node with every default, and which group fills which place: {'quant.weights': 'format'}."""
    from hydra.types import RunMode

    defaults = loader().compute_defaults_list(name, [], run_mode=RunMode.RUN).defaults
    places: dict[str, str] = {}
    for d in defaults:
        if d.package and "/" in d.config_path and not d.config_path.startswith("hydra"):
            places.setdefault(d.package, d.config_path.rsplit("/", 1)[0])
    return load(name), places


def parse(overrides: Iterable[str], name: str) -> list[Axis]:
    """Axes in the order Hydra applies them: group choices first, outer before inner; last wins."""
    axes: dict[str, Axis] = {}
    for text in overrides:
        axis = parse_one(text, name)
        axes[axis.place] = axis
    return sorted(
        axes.values(), key=lambda a: (a.group is None, a.place.count(".") if a.group else 0)
    )


def parse_one(text: str, name: str) -> Axis:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import OverrideType
    from hydra.errors import HydraException

    if not text.partition("=")[0] or "=" not in text:
        raise ConfigError(f"cannot read override {text!r}: write FIELD=VALUE, e.g. size=20k")
    try:
        parser = OverridesParser.create(config_loader=loader())
        override = parser.parse_overrides([text])[0]  # the singular form gives glob() no loader
    except HydraException as error:
        del error  # Hydra's grammar errors name its lexer, not the mistake
        raise ConfigError(
            f"cannot read override {text!r}: check brackets, commas and quotes; a value with spaces, commas or "
            f"accents needs quotes within quotes: {text.split('=')[0]}='\"...\"'"
        ) from None
    if override.type != OverrideType.CHANGE:
        raise ConfigError(
            f"{text}: + and ~ are not used here, every field exists: {text.lstrip('+~')}"
        )
    if override.is_interval_sweep():
        raise ConfigError(
            f"{text}: interval() is for optimizers; write a list, range() or choice()"
        )
    sweep = override.sweep_iterator() if override.is_sweep_override() else [override.value()]
    raw = list(islice(sweep, MOST_VALUES + 1))
    if not 1 <= len(raw) <= MOST_VALUES:
        found = "no value" if not raw else f"more than {MOST_VALUES:,} values"
        raise ConfigError(f"{text}: has {found}")
    values = tuple(v.strip("'\"") if isinstance(v, str) else v for v in raw)
    return placed(text, override, values, base(name)[1])


def placed(text: str, override: Any, values: tuple[Any, ...], places: dict[str, str]) -> Axis:
    """The override as an axis: `quant=qat` and `format@quant.weights=int4` are choices of options."""
    key, package = override.key_or_group, override.package
    place = package or key
    if package is not None or place in places:
        if package is None and places[place] != key:  # format alone would not say where
            raise ConfigError(
                f"{text}: {place} holds a {places[place]}: write {places[place]}@{place}=..."
            )
        if places.get(place) != key:
            names = [g if g == p else f"{g}@{p}" for p, g in places.items()]
            raise ConfigError(f"{text}: no such choice{nearest(f'{key}@{place}', names)}")
        return Axis(place, key, tuple(map(str, values)))
    if key in places.values():
        where = ", ".join(f"{g}@{p}" for p, g in places.items() if g == key)
        raise ConfigError(f"{text}: say where: {where}")
    return Axis(place, None, values)


def variants(
    place: str, node: dict[str, Any], axes: Sequence[Axis], kind: type[Spec]
) -> list[Spec]:
    """Every Spec that the axes ask for at one place, each checked as a whole.

    Fields are combined before they are checked: `heads=3 width=48` would fail one at a time.
    """
    own = next((a for a in axes if a.place == place), None)
    below = [a for a in axes if a.place != place]
    if own and own.group is None:
        raise ConfigError(f"{place}={own.values[0]}: {place} has parts; set one of its fields")
    nodes = [option(own.group, str(v)) for v in own.values] if own and own.group else [node]
    return [spec for n in nodes for spec in combined(place, n, below, kind)]


def combined(
    place: str, node: dict[str, Any], axes: Sequence[Axis], kind: type[Spec]
) -> list[Spec]:
    cls = target(node.get("_target_"), kind)
    columns: dict[str, list[Axis]] = {}
    for axis in axes:
        key = axis.place[len(place) + 1 if place else 0 :].split(".")[0]
        if key not in hints(cls):
            raise unknown_field(cls, place, key)
        columns.setdefault(key, []).append(axis)
    for key in node:
        if key != "_target_" and key not in hints(cls):
            raise unknown_field(cls, place, key)
    choices: list[Sequence[Any]] = [
        field_values(place, cls, name, node, columns.get(name, [])) for name in hints(cls)
    ]
    size = math.prod(map(len, choices))
    if size > MOST_POINTS:
        raise ConfigError(f"these overrides describe {size:,} configs, more than {MOST_POINTS:,}")
    return [
        located(place, cls, dict(zip(hints(cls), c, strict=True)))
        for c in itertools.product(*choices)
    ]


def field_values(
    place: str, cls: type[Spec], name: str, node: dict[str, Any], axes: Sequence[Axis]
) -> Sequence[Any]:
    here, kind = join(place, name), hints(cls)[name]
    if isinstance(kind, type) and issubclass(kind, Spec):
        return variants(here, node.get(name, {}), axes, kind)
    if not axes:
        return [node[name] if name in node else neutral_of(cls, name, place)]
    if axes[-1].place != here:
        raise ConfigError(f"{axes[-1].place}: {here} has no fields")
    return axes[-1].values


def expand(
    overrides: Iterable[str],
    name: str,
    kind: type[Spec],
    parts: Mapping[str, type[Spec]] | None = None,
) -> tuple[list[Any], dict[str, list[Any]]]:
    """One block of overrides: every Spec of `kind` (a product), and the variants of each of `parts`,
    which stand beside its fields in the same flat node (`job.yaml`: a run, ptq, exec, launcher).

    Ties such as `quant.kv.bits='${quant.weights.bits}'` are set after the product is made.
    """
    parts = parts or {}
    axes = parse(overrides, name)
    ties = {
        a.place: m[1]
        for a in axes
        if len(a.values) == 1 and (m := REFERENCE.fullmatch(str(a.values[0])))
    }
    of = {key: [a for a in axes if a.place.split(".")[0] == key] for key in parts}
    main = [a for a in axes if a.place not in ties and a.place.split(".")[0] not in parts]
    node = dict(base(name)[0])
    nodes = {key: node.pop(key) for key in parts}
    specs = variants("", node, main, kind)
    built = {key: variants(key, nodes[key], of[key], part) for key, part in parts.items()}
    return ([tied(s, ties) for s in specs] if ties else specs), built


def tied(spec: Spec, ties: dict[str, str]) -> Spec:
    for place, source in ties.items():
        spec = assign(spec, place, read(spec, source), place)
    return spec


def read(spec: Any, path: str) -> Any:
    for key in path.split("."):
        if not isinstance(spec, Spec) or key not in hints(type(spec)):
            known = hints(type(spec)) if isinstance(spec, Spec) else ()
            raise ConfigError(f"${{{path}}}: no such field{nearest(key, known)}")
        spec = getattr(spec, key)
    return spec


def assign(spec: Spec, path: str, value: Any, whole: str) -> Spec:
    key, _, rest = path.partition(".")
    if key not in hints(type(spec)):
        raise unknown_field(type(spec), whole.removesuffix(path).rstrip("."), key)
    if rest:
        return replace(spec, **{key: assign(getattr(spec, key), rest, value, whole)})
    try:
        return replace(spec, **{key: check(key, value, hints(type(spec))[key])})
    except ConfigError as error:
        raise ConfigError(join(whole.removesuffix(path).rstrip("."), str(error))) from None


def single(overrides: Iterable[str], name: str, kind: type[Spec]) -> Any:
    """The one Spec that the overrides describe."""
    specs, _ = expand(overrides, name, kind)
    if len(specs) > 1:
        raise ConfigError(
            f"these overrides describe {len(specs)} runs; `train` takes one, `sweep` takes many"
        )
    return specs[0]
