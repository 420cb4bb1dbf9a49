"""Overrides to Specs: equal to a full Hydra compose, fast, and clear about mistakes."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from precisionlaws.config import ConfigError, build
from precisionlaws.overrides import CONF, expand, load, options
from precisionlaws.run import RunConfig, compose

FINGERPRINT = "f" * 64


def test_every_yaml_composes_and_names_a_spec() -> None:
    for path in CONF.rglob("*.yaml"):
        if path.parent.name == "law":
            continue
        name = path.relative_to(CONF).with_suffix("").as_posix()
        node = load(name)
        assert node, name


def test_conf_has_no_package_headers_and_no_interpolation() -> None:
    """Parts are composed alone and put at any place: neither would survive that."""
    for path in CONF.rglob("*.yaml"):
        text = path.read_text()
        assert "@package" not in text, path
        assert "${" not in text, path


def test_presets_choose_formats_and_set_no_values() -> None:
    """A value in a preset would leak into the next format that is chosen; a rotation is of no format."""
    for path in (CONF / "quant").glob("*.yaml"):
        if path.stem != "roles":
            assert set(yaml.safe_load(path.read_text())) <= {"defaults", "rotation"}, path


def test_no_option_is_named_like_a_yaml_boolean() -> None:
    groups = [p.name for p in CONF.iterdir() if p.is_dir()]
    for group in groups:
        assert not {"on", "off", "yes", "no", "null", "true", "false"} & set(options(group)), group


SAMPLES = [
    ["size=7k"],
    ["size=50k", "tokens=1M", "seed=3"],
    ["quant=qat", "quant.weights.bits=5"],
    ["quant.weights.bits=5", "quant=qat"],  # groups first, whatever the typed order
    ["format@quant.weights=int8", "quant=qat"],
    ["quant=kumar", "quant.activations.bits=6", "micro_batch=4", "eval_batch=8"],
    ["quant=low_precision", "quant.kv.granularity=group"],
    ["size.depth=3", "size.width=48", "size.heads=3"],  # fails one at a time
    ["optim.lr=1e-3", "optim.beta2=0.99", "lr_schedule.decay=0.1"],
    ["data=text", "data.path=somewhere", "data.context=64"],
    ["model.kv_heads=1", "model.tied=true"],
    ["dtype=float64", "batch_tokens=2048"],
]


@pytest.mark.parametrize("overrides", SAMPLES, ids=" ".join)
def test_equal_to_a_full_hydra_compose(overrides: list[str]) -> None:
    assert compose(overrides) == build(load("run", overrides), RunConfig)


def test_a_random_grid_is_equal_to_full_composes() -> None:
    grid = {
        "size": ["7k", "20k", "50k"],
        "quant": ["none", "qat", "low_precision"],
        "quant.weights.bits": ["3", "4", "16"],
        "optim.lr": ["1e-3", "0.01"],
        "tokens": ["1M", "62.5k"],
    }
    specs, _ = expand([f"{k}={','.join(v)}" for k, v in grid.items()], "run", RunConfig)
    assert len(specs) == 3 * 3 * 3 * 2 * 2
    rng = random.Random(0)
    for _ in range(6):
        picked = [f"{k}={rng.choice(v)}" for k, v in grid.items()]
        assert build(load("run", picked), RunConfig) in specs


def test_ties_are_set_after_the_product() -> None:
    specs, _ = expand(
        ["quant.weights.bits=3,4", "quant.kv.bits='${quant.weights.bits}'"], "run", RunConfig
    )
    assert [(s.quant.weights.bits, s.quant.kv.bits) for s in specs] == [(3, 3), (4, 4)]


def test_ranges_and_choices() -> None:
    specs, _ = expand(["seed=range(0,3)", "quant.weights.bits=choice(3,4)"], "run", RunConfig)
    assert sorted((s.seed, s.quant.weights.bits) for s in specs) == [
        (s, b) for s in range(3) for b in (3, 4)
    ]


MISTAKES = {
    "quant.weigths.bits=4": "quant.weigths: no such field; did you mean 'weights'?",
    "quant.weights.bit=4": "quant.weights.bit: no such field; did you mean 'bits'?",
    "quant.weights.bits=2": r"quant.weights.bits must be 3 to 15, or 16 for off, got 2 \(int2 and ternary",
    "quant.weights.bits=17": "quant.weights.bits must be 3 to 15, or 16 for off, got 17",
    "quant.weights.bits=3.7": "quant.weights.bits must be a whole number, got 3.7",
    "quant.weights.bits=four": "quant.weights.bits must be a whole number, got 'four'",
    "quant.weights.bits=null": "quant.weights.bits must be a whole number, got null",
    "size=21k": "size=21k: unknown size; did you mean '20k'?",
    "sise=20k": "sise: no such field; did you mean 'size'?",
    "tokens=0": "tokens must be a positive whole number",
    "tokens=-5": "tokens must be a positive whole number",
    "tokens=10": "tokens must be at least half a step of 1024 tokens, got 10",
    "tokens=lots": "tokens must be a positive whole number",
    "seed=-1": "seed must be 0 to 2147483647, got -1",
    "batch_tokens=1000": "batch_tokens must be a multiple of data.context=128, got 1000",
    "quant=4": "quant=4: unknown quant",
    "quant.weights=4": "quant.weights holds a format: write format@quant.weights=",
    "format=int8": "format=int8: say where: format@quant.weights",
    "format@quant.weihts=int8": "no such choice; did you mean 'format@quant.weights'?",
    "+x=1": "are not used here",
    "~size": "write FIELD=VALUE",
    "optim.lr=interval(0,1)": "interval",
    "optim.lr=nan": "optim.lr must be finite",
    "data.path=x": "data.path: no such field",
    "data=text": "data.path has no default: give data.path=",
    "size.heads=3": "size.heads must divide width=32, got 3",
    "size.width=33": "size.width must be divisible by 16, got 33",
    "tokens.x=1": "tokens has no fields",
    "ptq=rtn": "ptq belongs to sweep or quantize",
    "seed=0,1": "describe 2 runs",
    "=3": "cannot read override",
    "seed=range(0,0)": "has no value",
    "seed=range(0,100000000)": "has more than 100,000 values",
    "seed=range(0,2000) optim.lr=range(1,2000)": "describe 3,998,000 configs, more than 1,000,000",
    "size.depth=100000000": "size.depth must be 1 to 1024",
    "tokens=1e30": "at most 1e18",
    "optim.clip=0": "optim.clip must be positive, or null for never, got 0",
    "data=text data.path=": "data.path must name a file or a folder",
    "data.path=/ä": "a value with spaces, commas or accents needs quotes within quotes",
    "size": "write FIELD=VALUE",
    "tokens=[": "cannot read override",
    "model._target_=os.system": "no such field",
    "quant=kumar quant.activations.bits=6": "give micro_batch=... and eval_batch=",
    "size=7k quant.weights.bits=4 quant.weights.granularity=group quant.weights.group=32": "quant.weights.group must divide the 16 values",
    "size.heads=4 quant.kv.bits=4 quant.kv.granularity=group": "quant.kv.group must divide the 8 values of a head",
    "micro_batch=3": "micro_batch must divide the 8 sequences",
}


@pytest.mark.parametrize("override", MISTAKES)
def test_a_mistake_gets_one_line_that_helps(override: str) -> None:
    with pytest.raises(ConfigError, match=MISTAKES[override]) as caught:
        compose(override.split())
    assert "\n" not in str(caught.value)


def test_ten_thousand_points_are_planned_in_seconds() -> None:
    """The bound is far above what it takes (1-2 s): a compose per point would take half an hour."""
    from precisionlaws.run import run_id

    compose([])  # imports
    start = time.process_time()
    specs, _ = expand(
        [
            "size=7k,20k,50k,100k",
            "tokens=" + ",".join(f"{2**k}k" for k in range(6, 11)),
            "seed=range(0,5)",
            "quant.weights.bits=3,4,6,8,16",
            "quant.activations.bits=3,4,6,8,16",
            "quant.kv.bits=4,6,8,16",
        ],
        "run",
        RunConfig,
    )
    names = {run_id(s, FINGERPRINT) for s in specs}
    assert len(names) == len(specs) == 10_000
    assert time.process_time() - start < 30


def test_composing_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from precisionlaws.run import compose; compose(['quant=qat', 'size=7k']);"
        "print(sorted({'torch', 'scipy', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "[]", done.stderr
