"""Specs: checked at the door, named by their normal form."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest

from precisionlaws.config import (
    ConfigError,
    Spec,
    build,
    count,
    flat,
    neutral,
    normal_json,
    plain,
    ranged,
    target,
)


@dataclass(frozen=True, kw_only=True)
class Inner(Spec):
    SHORT: ClassVar[str] = "inner"
    rate: float = ranged(0, 10)
    kind: Literal["a", "b"]
    extra: int = neutral(0)

    def inactive(self) -> set[str]:
        return {"rate"} if self.kind == "b" else set()


@dataclass(frozen=True, kw_only=True)
class Outer(Spec):
    SHORT: ClassVar[str] = "outer"
    inner: Inner
    names: tuple[str, ...]
    size: int | None = ranged(1)


def inner(**changes: object) -> Inner:
    return Inner(**({"rate": 1.0, "kind": "a"} | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": "fast"}, "rate must be a number, got 'fast'"),
        ({"rate": math.nan}, "rate must be finite, got nan"),
        ({"rate": math.inf}, "rate must be finite, got inf"),
        ({"rate": True}, "rate must be a number, got True"),
        ({"rate": 11}, "rate must be 0 to 10, got 11"),
        ({"rate": -1}, "rate must be 0 to 10, got -1"),
        ({"kind": "c"}, "kind must be one of a, b, got c"),
        ({"extra": 1.5}, "extra must be a whole number, got 1.5"),
        ({"extra": None}, "extra must be a whole number, got null"),
    ],
)
def test_a_bad_value_is_refused_with_field_rule_and_value(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        inner(**changes)


def test_whole_floats_are_integers_and_integers_are_floats() -> None:
    assert inner(extra=4.0).extra == 4
    assert isinstance(inner(extra=4.0).extra, int)
    assert isinstance(inner(rate=2).rate, float)


def test_the_normal_form_says_what_acts_and_nothing_else() -> None:
    assert normal_json(inner(rate=1)) == normal_json(inner(rate=1.0))
    assert normal_json(inner(rate=-0.0)) == normal_json(inner(rate=0))
    assert "extra" not in normal_json(
        inner()
    )  # at its neutral value: a field added later changes no id
    assert "extra" in normal_json(inner(extra=1))
    assert normal_json(inner(kind="b", rate=1)) == normal_json(inner(kind="b", rate=2))
    assert normal_json(inner(rate=1)) != normal_json(inner(rate=2))


def test_plain_and_flat_are_the_spec_as_data() -> None:
    outer = Outer(inner=inner(), names=("x", "y"), size=None)
    assert plain(outer)["inner"]["_target_"].endswith("test_config.Inner")
    assert flat(outer) == {
        "inner": "inner",
        "inner.rate": 1.0,
        "inner.kind": "a",
        "inner.extra": 0,
        "names": "x,y",
        "size": None,
    }


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1000000", 10**6),
        ("1M", 10**6),
        ("62.5k", 62500),
        ("1Mi", 2**20),
        ("1e6", 10**6),
        (4096, 4096),
        ("2 G", 2 * 10**9),
        ("1.005M", 1_005_000),  # in floats 1004999.9999999999
        ("64.1k", 64_100),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_counts_with_units(text: object, number: int) -> None:
    assert count(text) == number


@pytest.mark.parametrize(
    "text", ["0", "-5", "1.5", "0.0001k", "many", "1X", "", "1.2.3", "nan", "inf", "1e30"]
)
def test_counts_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="tokens must be a positive whole number"):
        count(text)


HOSTILE = [
    "os.system",
    "precisionlaws.config.Spec",  # not of the kind asked for
    "precisionlaws.config.importlib.import_module",
    "precisionlaws.store.os.system",
    "precisionlaws.store.os",
    "precisionlaws.cli.sweep.Overrides",
    "precisionlaws.cli.Main",
    "precisionlaws.__main__.Model",
    "precisionlaws.nowhere.Model",
    "precisionlaws.models.base.Model.__init__",
    "precisionlaws.overrides.Path",
    "subprocess.Popen",
    "builtins.exec",
    "",
    None,
    7,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_target_is_a_spec_of_ours_or_nothing(name: object) -> None:
    from precisionlaws.models.base import Model

    with pytest.raises(ConfigError, match="is not a Model of precisionlaws"):
        target(name, Model)


def test_build_refuses_unknown_fields_with_the_nearest_name() -> None:
    from precisionlaws.models.base import Size

    node = {"_target_": "precisionlaws.models.base.Size", "depth": 2, "widht": 32, "heads": 2}
    with pytest.raises(ConfigError, match="size.widht: no such field; did you mean 'width'?"):
        build(node, Size, "size")
    with pytest.raises(ConfigError, match="size.width is missing"):
        build({k: v for k, v in node.items() if k != "widht"}, Size, "size")
    with pytest.raises(ConfigError, match="size must be a mapping"):
        build("20k", Size, "size")  # type: ignore[arg-type]
