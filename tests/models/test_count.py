"""Counts before the model is built equal those of the built model, for every size and model of conf."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from precisionlaws.config import build, count
from precisionlaws.models.base import Model, Size
from precisionlaws.models.count import counts, forward_flops, training_bytes, training_flops
from precisionlaws.models.parts import linears
from precisionlaws.overrides import option

CONF = Path(__file__).resolve().parents[2] / "conf"
SIZES = sorted(p.stem for p in (CONF / "size").glob("*.yaml"))
MODELS = sorted(p.stem for p in (CONF / "model").glob("*.yaml"))
VOCAB, CONTEXT, BATCH = 256, 32, 2


def parts(model: str, size: str) -> tuple[Model, Size]:
    m, s = build(option("model", model), Model), build(option("size", size), Size)
    assert isinstance(m, Model)
    assert isinstance(s, Size)
    return m, s


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("model", MODELS)
def test_parameters(model: str, size: str) -> None:
    spec, dims = parts(model, size)
    with torch.device("meta"):  # the largest have a gigabyte of parameters
        built = spec.build(dims, VOCAB, CONTEXT)
    c = counts(spec, dims, VOCAB, CONTEXT)
    assert c.total == sum(p.numel() for p in built.parameters())
    shapes = {n: tuple(m.weight.shape) for n, m in linears(built)}
    assert shapes == {n: (out, width) for n, out, width in spec.matrices(dims)}
    assert sum(m.weight.numel() for _, m in linears(built)) == c.N


@pytest.mark.parametrize("model", ["llama", "gpt"])
def test_parameters_of_every_option(model: str) -> None:
    fields = {"kv_heads": 1, "qk_norm": True, "activation": "relu2", "tied": True}
    spec, dims = build(option("model", model) | fields, Model), parts(model, "50k")[1]
    assert isinstance(spec, Model)
    built = spec.build(dims, VOCAB, CONTEXT)
    assert counts(spec, dims, VOCAB, CONTEXT).total == sum(p.numel() for p in built.parameters())


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_about_what_their_names_say(size: str) -> None:
    spec, dims = parts("llama", size)
    N = counts(spec, dims, VOCAB, CONTEXT).N
    assert pytest.approx(count(size), rel=0.2) == N
    assert f"N = {N:,} " in (CONF / "size" / f"{size}.yaml").read_text()


@pytest.mark.parametrize("size", SIZES)
def test_heads_are_whole_groups_of_16(size: str) -> None:
    dims = parts("llama", size)[1]
    assert dims.head_dim % 16 == 0
    assert dims.head_dim >= 64 or count(size) < 10_000_000


def test_the_ladder_grows_in_every_dimension() -> None:
    ladder = [parts("llama", s)[1] for s in sorted(SIZES, key=count)]
    assert all(a.depth <= b.depth and a.head_dim <= b.head_dim for a, b in pairwise(ladder))
    assert all(a.width <= b.width for a, b in pairwise(ladder))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("model", MODELS)
def test_flops_are_those_that_torch_counts(model: str, size: str) -> None:
    spec, dims = parts(model, size)
    # Tensors without data: no part takes its CPU path, and attention is two products it can see.
    with torch.device("meta"):
        built = spec.build(dims, VOCAB, CONTEXT)
    ids = torch.zeros(BATCH, CONTEXT, dtype=torch.long, device="meta")
    tokens = BATCH * CONTEXT
    with FlopCounterMode(display=False) as counter:
        logits = built(ids)
    assert counter.get_total_flops() == tokens * forward_flops(spec, dims, VOCAB, CONTEXT)
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(built(ids).flatten(0, 1), ids.flatten()).backward()
    assert counter.get_total_flops() == training_flops(spec, dims, VOCAB, CONTEXT, tokens)
    assert logits.shape == (BATCH, CONTEXT, VOCAB)


def test_tied_table_counts_once() -> None:
    spec, dims = parts("llama", "7k")
    tied = build(option("model", "llama") | {"tied": True}, Model)
    assert isinstance(tied, Model)
    a, b = (counts(m, dims, VOCAB, CONTEXT) for m in (spec, tied))
    assert (b.N, b.N_head, b.N_emb) == (a.N, a.N_head, 0)
    assert b.total == sum(p.numel() for p in tied.build(dims, VOCAB, CONTEXT).parameters())


def test_memory_grows_with_batch_and_model() -> None:
    small, large = (parts("llama", s) for s in ("7k", "1M"))
    few, many = (training_bytes(*small, VOCAB, CONTEXT, n) for n in (1024, 2048))
    assert 1024 * VOCAB * 4 < few < many
    assert training_bytes(*large, VOCAB, CONTEXT, 1024) > few
