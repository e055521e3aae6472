"""Run what needs the null GPU. `python -m benchmarks.nullgpu [--torch VERSION] [COMMAND ...]`

It makes an environment with a CUDA build of torch under build/nullgpu, builds the stand-in with a C compiler and CUDA's
headers, and runs the suites that need launches but no values; or COMMAND, a program and its arguments, where `python`
is the environment's. It needs only the standard library and the package index.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu_run.uninstalled import ROOT, linked_tree

HERE = Path(__file__).parent
RUNTIME = ("log.c", "runtime.c", "memory.c", "blas.c")
FLAGS = ("-O1", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror", "-shared", "-fPIC")
NEEDED = [
    *("numpy", "safetensors", "tyro", "typeguard", "rich", "tomli-w", "platformdirs", "pillow", "matplotlib", "nvtx"),
    *("pytest", "pytest-benchmark", "hypothesis"),
]
SUITES = [
    *("python", "-m", "pytest", "-m", "null_gpu", "-W", "default", "-p", "no:cacheprovider"),
    *("tests/nullgpu", "tests/training/test_engine_gpu.py", "tests/kernels/test_gpu.py"),
]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nullgpu", description=__doc__)
    parser.add_argument("--torch", default="2.14.1", help="the version (default: 2.14.1)")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="instead of the suites")
    chosen = parser.parse_args(arguments)
    folder = ROOT / "build" / "nullgpu" / chosen.torch
    folder.mkdir(parents=True, exist_ok=True)
    try:
        python = environment(folder / "venv", chosen.torch)
        build(folder, headers(folder / "venv"))
    except subprocess.CalledProcessError as error:
        print(f"error: {Path(error.cmd[0]).name} failed, see above; is there a torch {chosen.torch}?", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("on the null GPU: nothing is computed, and no time means anything", flush=True)
    tree = folder / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    linked_tree(tree)
    (tree / "vae_fast" / "kernels").unlink()  # replaced by one without C++ operators, which are for another torch
    (tree / "vae_fast" / "kernels").mkdir()
    for path in (ROOT / "kernels").iterdir():
        if not path.name.startswith("_C"):
            (tree / "vae_fast" / "kernels" / path.name).symlink_to(path)
    program, *rest = chosen.command or SUITES
    env = os.environ | {
        "PYTHONPATH": str(tree),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("LD_LIBRARY_PATH")])),
        "LD_PRELOAD": str(folder / "libnullgpu.so"),
        "TRITON_CACHE_DIR": str(folder / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
    }
    done = subprocess.run([str(python) if program == "python" else program, *rest], cwd=tree, env=env, check=False)
    return done.returncode


def environment(folder: Path, version: str) -> Path:
    """Return the Python of an environment with this torch; make the environment the first time."""
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        print(f"installing a CUDA build of torch {version}: 5 GB, some minutes", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pins = folder / "constraints.txt"  # the project's, except torch and the Triton that goes with it
        lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        pins.write_text("\n".join(line for line in lines if not re.match(r"(torch|triton|setuptools)==", line)) + "\n")
        subprocess.run([python, "-m", "pip", "install", "-q", "-c", pins, f"torch=={version}", *NEEDED], check=True)
        (folder / "installed").touch()
    return python


def headers(environment: Path) -> Path:
    """Return the folder of CUDA's headers: named by CUDA_INCLUDE, of a toolkit, or of the wheels that torch needs."""
    named = os.environ.get("CUDA_INCLUDE")
    found = [Path(named)] if named else [Path("/usr/local/cuda/include")]
    found += environment.glob("lib/python*/site-packages/nvidia/*/include")
    for folder in found:
        if (folder / "driver_types.h").is_file():
            return folder
    raise ValueError("no CUDA headers found (driver_types.h); install a toolkit, or name their folder by CUDA_INCLUDE")


def build(folder: Path, include: Path) -> None:
    """Build libnullgpu.so, to be loaded first, and the libcuda.so.1 that torch and Triton look for."""
    compiler = os.environ.get("CC", "gcc")
    runtime = [HERE / name for name in RUNTIME]
    library = folder / "libnullgpu.so"
    subprocess.run([compiler, *FLAGS, f"-I{include}", "-o", library, *runtime, "-lpthread"], check=True)
    driver = ("-Wl,-soname,libcuda.so.1", "-o", folder / "libcuda.so.1", HERE / "driver.c")
    subprocess.run([compiler, *FLAGS, *driver, f"-L{folder}", "-l:libnullgpu.so"], check=True)


if __name__ == "__main__":
    sys.exit(main())
