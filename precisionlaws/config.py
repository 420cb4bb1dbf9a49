"""Specs: frozen dataclasses that check themselves once, at the door, and know their normal form.

Every part of a run (a model, a format, an optimizer ...) is a `Spec`. A yaml file names the class in
`_target_` and holds its values; `build` turns the one into the other and refuses everything else.
Two configs that train the same numbers have the same *normal form*: parts by short name, numbers
instead of labels, switched-off fields dropped, and fields at their frozen neutral value omitted, so
that a field added later changes no id.
"""

import difflib
import functools
import hashlib
import importlib
import json
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal, InvalidOperation
from typing import Any, ClassVar

UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12} | {
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}
MOST = 10**18
WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


class ConfigError(ValueError):
    """Bad input; the message is one line for a person, and the command exits with 2."""


def nearest(name: object, names: Iterable[object]) -> str:
    """The end of an error message: the nearest valid name, or all of them."""
    known = sorted(map(str, names))
    if not known:
        return "; nothing can be set here"
    close = difflib.get_close_matches(str(name), known, 1, 0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; valid: {', '.join(known)}"


def join(*parts: str) -> str:
    return ".".join(p for p in parts if p)


def count(text: object, name: str = "tokens") -> int:
    """A whole number written 1000000, 1M, 62.5k (decimal) or 1Mi (binary)."""
    match = re.fullmatch(r"\s*([0-9.]+(?:e\+?[0-9]+)?)\s*([kMGT]i?|)\s*", str(text))
    try:
        number = Decimal(match[1]) * UNITS[match[2]] if match else Decimal("nan")
    except InvalidOperation:
        number = Decimal("nan")
    if number.is_nan() or not (1 <= number <= MOST and number == int(number)):
        raise ConfigError(
            f"{name} must be a positive whole number like 1000000, 1M or 1Mi, at most 1e18, got {text}"
        )
    return int(number)


def neutral(value: Any) -> Any:
    """A field whose `value` leaves no trace in the normal form. It may never change."""
    return field(default=value, metadata={"neutral": value})


def ranged(low: float | None = None, high: float | None = None, **more: Any) -> Any:
    """A field with an inclusive range (and, in `more`, a neutral value)."""
    meta = {"low": low, "high": high} | {k: more[k] for k in ("neutral",) if k in more}
    return field(metadata=meta, **({"default": more["neutral"]} if "neutral" in more else {}))


@functools.cache
def hints(cls: type) -> dict[str, Any]:
    """Field name -> type, without the ClassVars that `get_type_hints` also returns."""
    every = typing.get_type_hints(cls)
    return {f.name: every[f.name] for f in fields(cls)}


@functools.cache
def limits(cls: type) -> list[tuple[str, Any, float | None, float | None]]:
    """(name, type, least, most) of every field."""
    kinds = hints(cls)
    return [
        (f.name, kinds[f.name], f.metadata.get("low"), f.metadata.get("high")) for f in fields(cls)
    ]


def check(path: str, value: Any, kind: Any) -> Any:
    """`value` as `kind` (scalar, Literal, X | None, tuple[X, ...], Spec), or an error naming `path`."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return (
            None
            if value is None
            else check(path, value, next(a for a in args if a is not type(None)))
        )
    if origin is typing.Literal:
        if value in args and not isinstance(value, bool):
            return value
        raise ConfigError(
            f"{path} must be one of {', '.join(map(str, args))}, got {value}{nearest(value, args)}"
        )
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{path} must be a list, got {value!r}")
        return tuple(check(path, v, args[0]) for v in value)
    if kind is float and type(value) in (int, float):
        if not math.isfinite(value):
            raise ConfigError(f"{path} must be finite, got {value}")
        return float(value)
    if kind is int and type(value) is float and value.is_integer():
        return int(value)
    if isinstance(value, kind) and (
        kind is bool or not isinstance(value, bool)
    ):  # a bool is an int
        return value
    word = WORDS.get(kind) or f"a {kind.__name__}"
    raise ConfigError(
        f"{path} must be {word}, got {value!r}"
        if value is not None
        else f"{path} must be {word}, got null"
    )


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Base of every config part: checks types and ranges, then `rules()`."""

    SHORT: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for name, kind, low, high in limits(type(self)):
            given = getattr(self, name)
            plain = type(given) is kind and kind is not float  # the rule, and grids are large
            value = given if plain else check(name, given, kind)
            if value is not None and (
                (low is not None and value < low) or (high is not None and value > high)
            ):
                span = (
                    f"{low} to {high}"
                    if None not in (low, high)
                    else f"at least {low}"
                    if high is None
                    else f"at most {high}"
                )
                raise ConfigError(f"{name} must be {span}, got {value}")
            if value is not given:
                object.__setattr__(self, name, value)
        self.rules()

    def rules(self) -> None:
        """Raise ConfigError("field must be ..., got ...") where fields do not go together."""

    def inactive(self) -> set[str]:
        """Fields without effect at the present values of the others."""
        return set()

    @classmethod
    def missing(cls, key: str, place: str) -> str:
        """The end of the error for a field that this class lacks: what to do instead, or ''."""
        return ""

    def acting(self) -> dict[str, Any]:
        """Every field but the inactive ones and those at their frozen neutral value."""
        off = self.inactive()
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in off
            and not ("neutral" in f.metadata and getattr(self, f.name) == f.metadata["neutral"])
        }

    def normal(self) -> dict[str, Any] | None:
        """Short name and the fields that act; None when the whole part is off."""
        parts = {k: v.normal() if isinstance(v, Spec) else v for k, v in self.acting().items()}
        return {"is": self.SHORT} | {k: v for k, v in parts.items() if v is not None}


def canonical(value: Any) -> Any:
    """Equal numbers as equal JSON: 1.0 as 1, -0.0 as 0, tuples as lists."""
    if isinstance(value, Mapping):
        return {k: canonical(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [canonical(v) for v in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


@functools.lru_cache(maxsize=65536)
def normal_json(spec: Spec) -> str:
    """The normal form as canonical JSON, '' when the part is off. Cached: specs hash."""
    form = spec.normal()
    return "" if form is None else dumps(form)


ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def dumps(value: Any) -> str:
    return ENCODER.encode(canonical(value))


def digest(text: str) -> str:
    """12 hex: enough to name a million runs."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def target(name: object, kind: type[Spec]) -> type[Spec]:
    """The Spec class of ours that `name` defines.

    Looked up in the vars of the module that defines it, never by attribute access: through attributes
    of our modules one reaches every module they import. Modules of the command line are not imported.
    """
    match = re.fullmatch(r"(precisionlaws(?:\.[a-z][a-z0-9_]*)+)\.([A-Z]\w*)", str(name))
    cls = None
    if match and not match[1].startswith("precisionlaws.cli"):
        try:
            cls = vars(importlib.import_module(match[1])).get(match[2])
        except ModuleNotFoundError:
            cls = None
    if match and isinstance(cls, type) and issubclass(cls, kind) and cls.__module__ == match[1]:
        return cls
    raise ConfigError(f"_target_ {name!r} is not a {kind.__name__} of precisionlaws")


def build(node: Mapping[str, Any], kind: type[Spec] = Spec, path: str = "") -> Spec:
    """A plain yaml node -> Spec. Absent fields take their neutral value; unknown ones are refused.

    Raises: ConfigError naming the full key.
    """
    if not isinstance(node, Mapping):
        raise ConfigError(f"{path or 'config'} must be a mapping, got {node!r}")
    cls = target(node.get("_target_"), kind)
    values: dict[str, Any] = {}
    for key in node:
        if key != "_target_" and key not in hints(cls):
            raise unknown_field(cls, path, key)
    for name, sub in hints(cls).items():
        if name not in node:
            values[name] = neutral_of(cls, name, path)
        elif isinstance(sub, type) and issubclass(sub, Spec):
            values[name] = build(node[name], sub, join(path, name))
        else:
            values[name] = node[name]
    return located(path, cls, values)


def unknown_field(cls: type[Spec], path: str, key: str) -> ConfigError:
    hint = cls.missing(key, path) or nearest(key, hints(cls))
    return ConfigError(f"{join(path, key)}: no such field{hint}")


def neutral_of(cls: type[Spec], name: str, path: str) -> Any:
    meta = next(f.metadata for f in fields(cls) if f.name == name)
    if "neutral" not in meta:
        raise ConfigError(f"{join(path, name)} is missing")
    return meta["neutral"]


def located(path: str, cls: type[Spec], values: Mapping[str, Any]) -> Spec:
    """`cls(**values)`, its errors prefixed with where the part stands."""
    for key, value in values.items():
        if isinstance(value, str) and value == "???":
            raise ConfigError(f"{join(path, key)} has no default: give {join(path, key)}=...")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(join(path, str(error))) from None


def plain(spec: Spec) -> dict[str, Any]:
    """The yaml node that `build` would turn into `spec` again."""
    node: dict[str, Any] = {"_target_": f"{type(spec).__module__}.{type(spec).__name__}"}
    for f in fields(spec):
        value = getattr(spec, f.name)
        node[f.name] = (
            plain(value)
            if isinstance(value, Spec)
            else list(value)
            if isinstance(value, tuple)
            else value
        )
    return node


def flat(spec: Spec, prefix: str = "") -> dict[str, Any]:
    """Dotted path -> scalar, with each part itself as its short name: the columns of the frame."""
    out: dict[str, Any] = {}
    for f in fields(spec):
        value, path = getattr(spec, f.name), join(prefix, f.name)
        if isinstance(value, Spec):
            out |= {path: value.SHORT} | flat(value, path)
        else:
            out[path] = ",".join(map(str, value)) if isinstance(value, tuple) else value
    return out
