"""What the Triton kernels compile to, for GPUs that need not be present: `python -m benchmarks.kernel_resources`

Every kernel is compiled in its variants for each target and inspected: registers, spills, local memory, and the widest
loads and stores of global memory. The table goes to benchmarks/kernel_resources.md.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from vae_fast.kernels.triton import elbo, finish_step, nll_with_gradient, philox, reparameterize
from vae_fast.kernels.triton.likelihoods import LIKELIHOODS

TARGETS = {
    **{f"sm_{arch}": GPUTarget("cuda", arch, 32) for arch in (75, 80, 90, 100)},
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
DTYPES = ("fp32", "bf16", "fp16")  # of all floating-point data
TABLE = Path(__file__).with_suffix(".md")
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
SCALED = ("gaussian", "discretized_logistic")
NOISE = {"seed_ptr": "*i64", "step_ptr": "*i64", "row_offset_ptr": "*i64", "row_offset": "i64", "stream": "i64"}


@dataclass(frozen=True)
class Variant:
    """A kernel with the types of its arguments, a tuple of types for an argument that is a tuple.

    Arguments that are not named are int32; integers and addresses are divisible by 16, as for aligned data.
    """

    name: str
    kernel: triton.JITFunction
    types: Mapping[str, str | tuple[str, ...]]
    constants: dict[str, Any]

    def source(self) -> ASTSource:
        names = self.kernel.arg_names
        types = {n: "constexpr" if n in self.constants else self.types.get(n, "i32") for n in names}
        places = [
            (i, *j)
            for i, name in enumerate(names)
            for j in ([(j,) for j in range(len(types[name]))] if isinstance(types[name], tuple) else [()])
            if types[name] not in ("constexpr", "fp32")
        ]
        aligned = {place: [["tt.divisibility", 16]] for place in places}
        return ASTSource(fn=self.kernel, signature=types, constexprs=self.constants, attrs=aligned)


@dataclass(frozen=True)
class Resources:
    """The resources of a compiled kernel: registers and local bytes per thread, and bytes of the widest accesses."""

    registers: int
    local: int
    spills: int
    load: int
    store: int


def variants(dtypes: Sequence[str] = DTYPES) -> Iterator[Variant]:
    constants = {"BLOCK_R": 32, "BLOCK_C": 32}
    yield Variant("random_bits", philox._random_bits_kernel, {**NOISE, "out_ptr": "*i64"}, constants)
    for dtype in dtypes:
        yield from _reparameterize(dtype)
        for likelihood in LIKELIHOODS:
            for with_kl in (True, False):
                yield from _elbo(likelihood, dtype, with_kl)
        for likelihood in LIKELIHOODS:
            yield _nll_with_gradient(likelihood, dtype)
        yield from _finish_step(dtype)


def _reparameterize(dtype: str) -> Iterator[Variant]:
    tile = {"BLOCK_R": 32, "BLOCK_C": 32}
    kernel = reparameterize._reparameterize_fwd_kernel
    pointers = {**_pointers(kernel, dtype), **NOISE, "kl_ptr": "*fp32"}
    for title, unused in (
        ("", ["kl_ptr", "row_offset_ptr"]),
        ("with kl, ", ["row_offset_ptr"]),
        ("from, with kl, ", []),
    ):
        constants = {**_together(kernel), **tile, **dict.fromkeys(unused)}
        yield Variant(f"reparameterize_fwd, {title}{dtype}", kernel, pointers, constants)
    kernel = reparameterize._reparameterize_bwd_kernel
    pointers = {**_pointers(kernel, dtype), **NOISE, "grad_kl_ptr": "*fp32"}
    of_a_step = {"grad_kl_stride": 0, "grad_kl_column": 1}  # a weight for each dimension
    yield Variant(
        f"reparameterize_bwd, of a step, {dtype}", kernel, pointers, {**_together(kernel), **of_a_step, **tile}
    )
    for title, unused in (("", ["grad_kl_ptr", "mu_ptr"]), ("with kl, ", []), ("kl only, ", ["grad_z_ptr"])):
        constants = {**_together(kernel), "grad_kl_stride": 1, "grad_kl_column": 0, **tile, **dict.fromkeys(unused)}
        yield Variant(f"reparameterize_bwd, {title}{dtype}", kernel, pointers, constants)


def _elbo(likelihood: str, dtype: str, with_kl: bool) -> Iterator[Variant]:
    title = f"{likelihood}, {'' if with_kl else 'nll only, '}{dtype}"
    scaled = likelihood in SCALED
    unused = [] if with_kl else ["mu_ptr", "logvar_ptr", "kl_ptr", "grad_kl_ptr", "grad_mu_ptr", "grad_logvar_ptr"]
    unused += [] if scaled else ["log_scale_ptr", "partial_ptr"]
    floats = {"target_ptr": "*u8", "nll_ptr": "*fp32", "kl_ptr": "*fp32", "log_scale_ptr": "*fp32"}
    floats |= {"grad_nll_ptr": "*fp32", "grad_kl_ptr": "*fp32", "partial_ptr": "*fp32"}
    strides = {"grad_nll_stride": 1, "grad_kl_stride": 1}
    for kernel, function in (
        (elbo._elbo_fwd_kernel, {"VALUE": LIKELIHOODS[likelihood].value}),
        (elbo._elbo_bwd_kernel, {"GRADIENT": LIKELIHOODS[likelihood].gradient, "ROWS": elbo.ROWS if scaled else 1}),
    ):
        constants = {
            **_together(kernel),
            **strides,
            "BLOCK_D": 1024,
            "BLOCK_Z": 32,
            **function,
            **dict.fromkeys(unused),
        }
        constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
        name = kernel.__name__.removeprefix("_").removesuffix("_kernel")
        yield Variant(f"{name}, {title}", kernel, {**_pointers(kernel, dtype), **floats}, constants)


def _nll_with_gradient(likelihood: str, dtype: str) -> Variant:
    kernel = nll_with_gradient._nll_with_gradient_kernel
    names = ("weight_ptr", "nll_ptr", "log_scale_ptr", "by_scale_ptr")
    functions = {"VALUE": LIKELIHOODS[likelihood].value, "GRADIENT": LIKELIHOODS[likelihood].gradient}
    unused = () if likelihood in SCALED else ("log_scale_ptr", "by_scale_ptr")
    constants = {**_together(kernel), **functions, "BLOCK_D": 1024, **dict.fromkeys(unused)}
    pointers = {**_pointers(kernel, dtype), "target_ptr": "*u8", **dict.fromkeys(names, "*fp32")}
    return Variant(f"nll_with_gradient, {likelihood}, {dtype}", kernel, pointers, constants)


def _finish_step(dtype: str) -> Iterator[Variant]:
    """Yield the kernels for eight parameters with a gradient in `dtype` each, with every option on."""
    types: dict[str, str | tuple[str, ...]] = {
        "gradients": (f"*{dtype}",) * 8,
        "sizes": ("i32",) * 8,
        "firsts": ("i32",) * 9,
        "weight_decay": "fp32",
        "max_norm": "fp32",
        "step_ptr": "*i64",
        "growth_ptr": "*i32",
        "copies_ptr": f"*{dtype}",
        **dict.fromkeys(("terms_ptr", "sums_ptr", "ring_ptr"), "*fp64"),
    }
    unused = {} if dtype == "fp16" else {"scale_ptr": None, "growth_ptr": None}
    unused |= {"copies_ptr": None} if dtype == "fp32" else {}
    sizes = {"COUNT": 8, "PARTS": 1024, **finish_step.CONSTANTS, **finish_step.SCALER}
    for kernel in (finish_step._finish_step_sum_kernel, finish_step._finish_step_update_kernel):
        constants = {name: value for name, value in {**unused, **sizes}.items() if name in kernel.arg_names}
        name = kernel.__name__.removeprefix("_").removesuffix("_kernel")
        yield Variant(f"{name}, {dtype}", kernel, {**_pointers(kernel, "fp32"), **types}, constants)


def _pointers(kernel: triton.JITFunction, dtype: str) -> dict[str, str]:
    return {name: f"*{dtype}" for name in kernel.arg_names if name.endswith("_ptr")}


def _together(kernel: triton.JITFunction) -> dict[str, Any]:
    """Return the constants for contiguous columns, as Triton specialises a stride of 1."""
    return {name: 1 for name in kernel.arg_names if name.endswith("_column")}


@cache
def resources(variant_name: str, target_name: str) -> Resources:
    """Compile one variant for one target, and return the resources of the result."""
    variant = next(v for v in variants() if v.name == variant_name)
    target = TARGETS[target_name]
    compiled = triton.compile(variant.source(), target=target, options={"num_warps": 4})
    return _of_amdgcn(compiled.asm["amdgcn"]) if target.backend == "hip" else _of_cubin(compiled.asm["cubin"])


def _of_cubin(cubin: bytes) -> Resources:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _tool("cuobjdump", "--dump-resource-usage", file.name)
        code = _tool("cuobjdump", "-sass", file.name)
    used = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    assert used is not None, usage
    return Resources(
        registers=int(used[1]),
        local=int(used[2]) + int(used[3]),
        spills=len(re.findall(r"\b(?:LDL|STL)\b", code)),
        load=_widest(r"\bLDG\.E(?:\.\w+)*", code),
        store=_widest(r"\bSTG\.E(?:\.\w+)*", code),
    )


def _of_amdgcn(text: str) -> Resources:
    def field(name: str) -> int:
        return sum(map(int, re.findall(rf"\.{name}:\s*(\d+)", text)))

    return Resources(
        registers=field("vgpr_count"),
        local=field("private_segment_fixed_size"),
        spills=field("sgpr_spill_count") + field("vgpr_spill_count"),
        load=_widest(r"\b(?:global|buffer)_load_\w+", text),
        store=_widest(r"\b(?:global|buffer)_store_\w+", text),
    )


def _widest(pattern: str, code: str) -> int:
    """Return the bytes of the widest access whose instruction matches: `LDG.E.128`, `global_load_dwordx4`."""
    widths = {".128": 16, "x4": 16, "x3": 12, ".64": 8, "x2": 8, "8": 1, "byte": 1, "16": 2, "short": 2}
    found = [name.removesuffix(".SYS") for name in re.findall(pattern, code)]
    return max((next((w for end, w in widths.items() if name.endswith(end)), 4) for name in found), default=0)


def _tool(name: str, *arguments: str) -> str:
    return subprocess.run([TOOLS / name, *arguments], capture_output=True, text=True, check=True).stdout


def main() -> None:
    header = f"| kernel | {' | '.join(TARGETS)} |"
    lines = [
        "# What the Triton kernels compile to",
        "",
        f"triton {triton.__version__}, 4 warps, data aligned to 16 bytes. Registers a thread / bytes of the widest",
        "load, bytes of the widest store; spills and local memory stand there where there are any. (With Triton 3.6",
        "elbo_bwd of the discretized logistic in float32 spills two words on sm_90.)",
        "`python -m benchmarks.kernel_resources`",
        "",
        header,
        re.sub(r"[^|]+", " --- ", header),
    ]
    for variant in variants():
        cells = []
        for target in TARGETS:
            r = resources(variant.name, target)
            extra = f" **{r.spills} spills, {r.local} bytes local**" if r.spills or r.local else ""
            cells.append(f"{r.registers} / {r.load}, {r.store}{extra}")
        lines.append(f"| {variant.name} | {' | '.join(cells)} |")
    TABLE.write_text("\n".join(lines) + "\n")
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
