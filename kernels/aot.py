# pyright: basic
"""What the compiler makes of the Triton kernels, without a GPU.

    python -m precisionlaws.kernels.aot --arch 80,90,100 [--json]

Compiles every layout of work for every architecture with the ptxas of the triton wheel, and counts in
its output what decides speed and exactness: registers and spills, 128-bit loads and stores, approximate
divisions, fused multiply-adds, flushed subnormals. Exit code 1 if a kernel breaks a rule (`problems`).

Alignment is what launches of real tensors have; one case has none and may load narrowly, but not spill.
Registers and memory are read from the cubin by the wheel's cuobjdump; where a wheel has none they are
null, in the table and in JSON, and not judged.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ARCHITECTURES = ("80", "90", "100")
HEADROOM = 128  # registers: 4 blocks of 128 threads still hide memory latency with them


@dataclass(frozen=True, kw_only=True)
class Case:
    """One specialization of a kernel."""

    kernel: str
    dtype: str  # fp32, fp16, bf16
    n: int  # values per scale, in one pass
    member: bool = False  # q_max per member
    stores: bool = True  # of more than one value
    aligned: bool = True  # if not: a length that is no multiple of 16, and more than 2^31 values


CASES = [
    *(Case(kernel="_held_kernel", dtype=d, n=n) for d in ("bf16", "fp32") for n in (8192, 128, 16)),
    Case(kernel="_held_kernel", dtype="fp16", n=128),
    Case(kernel="_held_kernel", dtype="bf16", n=96),  # padded to a power of two
    Case(kernel="_held_kernel", dtype="fp32", n=64, member=True),
    *(Case(kernel="_maxima_kernel", dtype=d, n=0, stores=False) for d in ("bf16", "fp32")),
    *(Case(kernel="_values_kernel", dtype=d, n=0) for d in ("bf16", "fp32")),
    Case(kernel="_values_kernel", dtype="bf16", n=0, aligned=False),
]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A compiled kernel, with counts of instructions in its PTX."""

    kernel: str
    dtype: str
    n: int
    arch: str
    warps: int
    registers: int | None
    stack: int | None  # bytes
    local: int | None  # bytes: spills
    shared: int | None  # bytes
    loads_128: int
    stores_128: int
    div_approx: int  # div.full, div.approx, rcp.approx
    div_rn: int
    fma: int
    ftz: int  # arithmetic that flushes subnormals
    stores: bool
    aligned: bool

    def problems(self) -> list[str]:
        """The rules that this kernel breaks, in words."""
        rules = {
            "spills registers": bool(self.stack or self.local),
            f"more than {HEADROOM} registers": (self.registers or 0) > HEADROOM,
            "no 128-bit loads": self.aligned and not self.loads_128,
            "no 128-bit stores": self.aligned and self.stores and not self.stores_128,
            "approximate division": bool(self.div_approx),
            "fused multiply-add": bool(self.fma),
            "subnormals are flushed": bool(self.ftz),
        }
        name = f"{self.kernel} {self.dtype} n={self.n} sm_{self.arch}"
        return [f"{name}: {rule}" for rule, broken in rules.items() if broken]


def table(architectures: tuple[str, ...] = ARCHITECTURES) -> list[Row]:
    """Every case for every architecture, some tenths of a second each.

    Raises: ValueError under TRITON_INTERPRET, where nothing can be compiled.
    """
    from precisionlaws.kernels import fake_quant

    if fake_quant.INTERPRETED:
        raise ValueError("kernels cannot be compiled under TRITON_INTERPRET; unset it")
    return [compiled(case, arch) for arch in architectures for case in CASES]


def compiled(case: Case, arch: str) -> Row:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from precisionlaws.kernels import fake_quant

    kernel = getattr(fake_quant, case.kernel)
    constants = constants_of(case)
    options = {k: constants.pop(k) for k in ("num_warps", "enable_fp_fusion")}
    kinds = {
        "x_ptr": f"*{case.dtype}",
        "y_ptr": f"*{case.dtype}",
        "maxima_ptr": "*i32",
        "limit_ptr": "*fp32",
        "limit": "fp32",
        "n": "i32" if case.aligned else "i64",
    }
    names = kernel.arg_names
    signature = {a: "constexpr" if a in constants else kinds.get(a, "i32") for a in names}
    # As at launch: tensors are aligned, and so is a length that is a multiple of 16.
    aligned = [i for i, a in enumerate(names) if a.endswith("_ptr") or (a == "n" and case.aligned)]
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs=constants,
        attrs={(i,): [["tt.divisibility", 16]] for i in aligned},
    )
    made = triton.compile(
        source,
        target=GPUTarget("cuda", int(arch), 32),
        options=options,
    )
    return Row(
        kernel=case.kernel,
        dtype=case.dtype,
        n=case.n,
        arch=arch,
        warps=options["num_warps"],
        stores=case.stores,
        aligned=case.aligned,
        **resources(made.asm["cubin"]),
        **counts(made.asm["ptx"]),
    )


def constants_of(case: Case) -> dict[str, Any]:
    """Compile-time arguments and options, as the launchers choose them."""
    from precisionlaws.kernels import fake_quant

    if case.kernel == "_held_kernel":
        block, rows, warps = fake_quant.held_shape(case.n)
        member = 8 * case.member
        return fake_quant.constants(warps, N=case.n, PER_MEMBER=member, BLOCK=block, ROWS=rows)
    fixed = {"PER_MEMBER": 0, "MAXIMA": fake_quant.PROGRAMS} if case.stores else {}
    return fake_quant.constants(4, STEPS=16, TILE=fake_quant.TILE, **fixed)


def counts(ptx: str) -> dict[str, int]:
    wide = r"\.global[\w.:]*\.(v4\.[bfu]32|v2\.[bfu]64|v8\.[bfu]32|v4\.[bfu]64)"
    patterns = {
        "loads_128": r"\bld" + wide,
        "stores_128": r"\bst" + wide,
        "div_approx": r"\b(div\.full|div\.approx|rcp\.approx)",
        "div_rn": r"\bdiv\.rn\.f32",
        "fma": r"\bfma\.r[nzmp]",
        "ftz": r"\.ftz\b",
    }
    return {name: len(re.findall(pattern, ptx)) for name, pattern in patterns.items()}


def resources(cubin: bytes) -> dict[str, int | None]:
    """Registers per thread, and bytes of stack, local and shared memory."""
    names = {"registers": "REG", "stack": "STACK", "local": "LOCAL", "shared": "SHARED"}
    tool = cuobjdump()
    if tool is None:
        return dict.fromkeys(names)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        text = subprocess.run(
            [tool, "-res-usage", str(path)], check=True, capture_output=True, text=True
        ).stdout
    found = {name: re.search(rf"\b{key}:(\d+)", text) for name, key in names.items()}
    return {name: int(m[1]) if m else None for name, m in found.items()}


def cuobjdump() -> str | None:
    import triton.backends.nvidia

    path = Path(next(iter(triton.backends.nvidia.__path__))) / "bin" / "cuobjdump"
    return str(path) if path.exists() else None


def lines(rows: list[Row]) -> Iterator[str]:
    shown = [a for a in asdict(rows[0]) if a != "stores"]  # the kernel's name says it
    cells = [shown, *([str(getattr(r, a)) for a in shown] for r in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        yield "  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--arch", default=",".join(ARCHITECTURES), help="80,90,100")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = table(tuple(options.arch.split(",")))
    print(
        json.dumps([asdict(r) for r in rows], indent=1) if options.json else "\n".join(lines(rows))
    )
    problems = [p for r in rows for p in r.problems()]
    for problem in problems:
        print(problem, file=sys.stderr)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
