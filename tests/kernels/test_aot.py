"""What the compiler makes of the kernels: no GPU is needed to know registers, spills and vector width."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from precisionlaws.kernels import aot

pytest.importorskip("triton", reason="triton is not installed")


FEW = [*{c.kernel: c for c in aot.CASES[::-1]}.values(), *{c.work: c for c in aot.CASES}.values()]


@pytest.mark.parametrize(
    ("arch", "cases"),
    [
        pytest.param("80", aot.CASES, marks=pytest.mark.slow),
        ("90", FEW),
        pytest.param("90", aot.CASES, marks=pytest.mark.slow),
        pytest.param("100", aot.CASES, marks=pytest.mark.slow),
    ],
)
def test_every_kernel_keeps_the_rules(arch: str, cases: list[aot.Case]) -> None:
    rows = aot.table((arch,), cases)
    assert len(rows) == len(cases)
    assert {c.kernel for c in cases} == {c.kernel for c in aot.CASES}
    assert [p for r in rows for p in r.problems()] == []
    for row in rows:
        assert (row.div_rn > 0) == (row.stores and row.work != "product")
        assert (row.registers is None) == (aot.cuobjdump() is None)
        if not row.aligned:
            continue
        size = 2 if row.dtype in ("bf16", "fp16") else 4
        each = 16 if {"stochastic", "row"} & set(row.work.split()) else 32  # values per thread
        if row.work != "product":  # in a loop, and through shared memory
            assert row.loads_128 >= each * size // 16


def test_every_broken_rule_is_named() -> None:
    good = aot.Row(
        kernel="k", work="w", dtype="fp32", n=1, arch="90", warps=4, registers=64, stack=0, local=0, shared=0,
        loads_128=1, stores_128=1, div_approx=0, div_rn=1, fma=0, ftz=0, stores=True, aligned=True,
    )  # fmt: skip
    assert good.problems() == []
    bad = replace(
        good, registers=129, local=8, loads_128=0, stores_128=0, div_approx=1, fma=2, ftz=1
    )
    assert [p.partition(": ")[2] for p in bad.problems()] == [
        "spills registers",
        "more than 128 registers",
        "no 128-bit loads",
        "no 128-bit stores",
        "approximate division",
        "fused multiply-add",
        "subnormals are flushed",
    ]
    assert replace(good, stores=False, stores_128=0).problems() == []
    assert replace(good, work="product", fma=1).problems() == []
    assert replace(good, aligned=False, stores_128=0, loads_128=0).problems() == []


def test_counts_of_instructions() -> None:
    found = aot.counts(
        """
        @%p1 ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 + 0 ];
        cp.async.cg.shared.global [ %r6 + 0 ], [ %rd4 + 0 ], 0x10, %r7;
        cp.async.ca.shared.global [ %r6 + 0 ], [ %rd4 + 0 ], 0x8, %r7;
        ld.global.b32 %r5, [ %rd2 ];
        st.global.L1::no_allocate.v4.b32 [ %rd3 ], { %r1 };
        div.full.f32 %f1, %f2, %f3;
        div.rn.f32 %f1, %f2, %f3;
        fma.rn.f32 %f1, %f2, %f3, %f4;
        mul.ftz.f32 %f1, %f2, %f3;
        """
    )
    assert found == {
        "loads_128": 2, "stores_128": 1, "div_approx": 1, "div_rn": 1, "fma": 1, "ftz": 1
    }  # fmt: skip


@pytest.mark.slow
def test_command_prints_a_table_or_json() -> None:
    command = [sys.executable, "-m", "precisionlaws.kernels.aot", "--arch", "80"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = json.loads(
        subprocess.run([*command, "--json"], check=True, capture_output=True, text=True).stdout
    )
    assert text.splitlines()[0].split()[:5] == ["kernel", "work", "dtype", "n", "arch"]
    assert len(text.splitlines()) == 1 + len(rows) == 1 + len(aot.CASES)
