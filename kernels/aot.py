# pyright: basic
"""What the compiler makes of the Triton kernels, without a GPU.

    python -m precisionlaws.kernels.aot --arch 80,90,100 [--json]

Compiles every kernel, in the layouts that launches choose, for every architecture with the ptxas of the triton wheel, and counts in
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
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

ARCHITECTURES = ("80", "90", "100")
HEADROOM = 128  # registers: 4 blocks of 128 threads still hide memory latency with them


@dataclass(frozen=True, kw_only=True)
class Case:
    """One specialization of a kernel."""

    kernel: str  # module and function
    dtype: str  # fp32, fp16, bf16
    n: int  # values per scale, or of a rotated block, in one pass
    work: str = "absmax"  # what is done, in words of the kernel's compile-time arguments
    member: bool = False  # numbers of a type per member
    stores: bool = True  # of more than one value
    aligned: bool = True  # if not: a length that is no multiple of 16, and more than 2^31 values


INTS = [
    *(Case(kernel="fake_quant._held_kernel", dtype=d, n=n) for d in ("bf16", "fp32") for n in (8192, 128, 16)),
    Case(kernel="fake_quant._held_kernel", dtype="fp16", n=128),
    Case(kernel="fake_quant._held_kernel", dtype="bf16", n=96),  # padded to a power of two
    Case(kernel="fake_quant._held_kernel", dtype="fp32", n=64, member=True),
    *(Case(kernel="fake_quant._maxima_kernel", dtype=d, n=0, stores=False) for d in ("bf16", "fp32")),
    *(Case(kernel="fake_quant._values_kernel", dtype=d, n=0) for d in ("bf16", "fp32")),
    Case(kernel="fake_quant._values_kernel", dtype="bf16", n=0, aligned=False),
]  # fmt: skip
TYPES = [
    *(Case(kernel="fake_types._held_kernel", dtype=d, n=n) for d in ("bf16", "fp32") for n in (8192, 128, 16)),
    Case(kernel="fake_types._held_kernel", dtype="fp32", n=64, member=True),
    *(
        Case(kernel="fake_types._held_kernel", dtype=d, n=n, work=work)
        for d in ("bf16", "fp32")
        for n, work in (
            (32, "mx"), (32, "mx stochastic"), (8192, "absmax stochastic"), (128, "zero"), (8192, "zero"),
            (8192, "given"), (128, "given mask"), (8192, "given midrise mask"), (128, "absmax wide"),
        )
    ),
    *(
        Case(kernel="fake_types._long_kernel", dtype=d, n=0, work=work)
        for d in ("bf16", "fp32")
        for work in ("given", "given stochastic", "given midrise mask", "zero")
    ),
    Case(kernel="fake_types._long_kernel", dtype="bf16", n=0, work="given", aligned=False),
]  # fmt: skip
NVFP4 = [
    *(Case(kernel="fake_nvfp4._nvfp4_kernel", dtype=d, n=16, work="seen") for d in ("bf16", "fp32")),
    Case(kernel="fake_nvfp4._nvfp4_kernel", dtype="bf16", n=16, work="seen stochastic"),
    Case(kernel="fake_nvfp4._nvfp4_kernel", dtype="bf16", n=16, work="none floored"),
    *(Case(kernel="fake_nvfp4._nvfp4_kernel", dtype="bf16", n=n, work="row") for n in (1024, 8192)),
]  # fmt: skip
ROTATION = [
    Case(kernel="fake_hadamard._rotate_kernel", dtype=d, n=n, work="product")
    for d in ("bf16", "fp32")
    for n in (128, 32, 16)
]
CASES = [*INTS, *TYPES, *NVFP4, *ROTATION]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A compiled kernel, with counts of instructions in its PTX."""

    kernel: str
    work: str
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
            "fused multiply-add": bool(self.fma) and self.work != "product",  # of exact products
            "subnormals are flushed": bool(self.ftz),
        }
        name = f"{self.kernel} {self.work} {self.dtype} n={self.n} sm_{self.arch}"
        return [f"{name}: {rule}" for rule, broken in rules.items() if broken]


def table(
    architectures: tuple[str, ...] = ARCHITECTURES, cases: Sequence[Case] = CASES
) -> list[Row]:
    """Every case for every architecture, some tenths of a second each.

    Raises: ValueError under TRITON_INTERPRET, where nothing can be compiled.
    """
    from precisionlaws.kernels import fake_quant

    if fake_quant.INTERPRETED:
        raise ValueError("kernels cannot be compiled under TRITON_INTERPRET; unset it")
    return [compiled(case, arch) for arch in architectures for case in cases]


def compiled(case: Case, arch: str) -> Row:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    module, _, function = case.kernel.partition(".")
    kernel = getattr(import_module(f"precisionlaws.kernels.{module}"), function)
    constants = constants_of(case)
    options = {k: constants.pop(k) for k in ("num_warps", "enable_fp_fusion")}
    kinds = {
        "x_ptr": f"*{case.dtype}",
        "y_ptr": f"*{case.dtype}",
        "mask_ptr": "*i8",
        "maxima_ptr": "*i32",
        "seen_ptr": "*i32",
        **dict.fromkeys(("limit_ptr", "given_ptr", "types_ptr"), "*fp32"),
        **dict.fromkeys(("limit", "top", "low", "unit", "bound", "factor"), "fp32"),
        **dict.fromkeys(("seed", "first_position"), "i64"),
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
        work=case.work,
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
    from precisionlaws.kernels import device, fake_hadamard, fake_nvfp4, fake_quant, fake_types

    words, per_member = case.work.split(), 8 * case.member
    if case.work == "product":
        rows, warps = fake_hadamard.shape_of(case.n)
        step = fake_hadamard.step_of(case.n, 4 if case.dtype == "fp32" else 2)
        return device.constants(warps, BLOCK=case.n, ROWS=rows, STEP=step)
    if case.kernel.startswith("fake_nvfp4"):
        shape, warps = fake_nvfp4.shape_of(case.n, 16, "stochastic" in words or "row" in words)
        chosen = {"FLOORED": "floored" in words, "STOCHASTIC": "stochastic" in words}
        return device.constants(warps, N=case.n, GROUP=16, OUTER=words[0], FOURS=True, **chosen, **shape)  # fmt: skip
    fixed: dict[str, Any] = {}
    rounding = [w for w in words if w in ("stochastic", "midrise", "zero")] or ["nearest"]
    if case.kernel.startswith("fake_types"):
        fixed = {
            "ROUND": rounding[0],
            "MASK": "mask" in words,
            "WIDE": "wide" in words,
            "FOURS": True,
        }
    if case.n:
        block, rows, warps = device.held_shape(case.n, fake_types.each(rounding[0]))
        fixed |= {"RULE": words[0]} if fixed else {}
        return device.constants(warps, N=case.n, PER_MEMBER=per_member, BLOCK=block, ROWS=rows, **fixed)  # fmt: skip
    if fixed:
        return device.constants(4, PER_MEMBER=0, TILE=fake_types.tile_of(0, rounding[0]), **fixed)
    fixed = {"PER_MEMBER": 0, "MAXIMA": fake_quant.PROGRAMS} if case.stores else {}
    return device.constants(4, STEPS=16, TILE=device.TILE, **fixed)


def counts(ptx: str) -> dict[str, int]:
    wide = r"\.global[\w.:]*\.(v4\.[bfu]32|v2\.[bfu]64|v8\.[bfu]32|v4\.[bfu]64)"
    patterns = {
        "loads_128": r"\bld" + wide + r"|\bcp\.async\.c[ag]\.shared\.global.*, (0x10|16)\b",
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
