"""Running vae_fast where it is not installed: in a tree of links, with missing packages from wheels.

This module needs only the standard library.
"""

import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_SAME_NAMES = (
    *("torch", "triton", "numpy", "safetensors", "tyro", "docstring_parser", "typeguard", "rich", "mdurl", "pygments"),
    *("platformdirs", "matplotlib", "pytest", "hypothesis"),
)
NEEDED = {  # module: the distribution that provides it
    **dict(zip(_SAME_NAMES, _SAME_NAMES, strict=True)),
    "tomli_w": "tomli-w",
    "PIL": "pillow",
    "markdown_it": "markdown-it-py",
    "pytest_benchmark": "pytest-benchmark",
    "typing_extensions": "typing-extensions",
}
if platform.system() != "Linux" or platform.machine() != "x86_64":
    del NEEDED["triton"]  # as in pyproject.toml
FOR_BUILDING = {"setuptools": "setuptools"} | ({} if shutil.which("cmake") else {"cmake": "cmake"})


def linked_tree(tree: Path) -> Path:
    """Link vae_fast with its kernels, tests and benchmarks into a tree that looks like an install and a clone."""
    (tree / "vae_fast").mkdir(parents=True)
    for path in [*(ROOT / "vae_fast").iterdir(), ROOT / "kernels"]:
        (tree / "vae_fast" / path.name).symlink_to(path)
    for name in ("benchmarks", "tests", "pyproject.toml"):
        (tree / name).symlink_to(ROOT / name)
    return tree


def unpacked(wheels: Path | None, site: Path) -> list[Path]:
    """Install what is missing here from a folder of wheels, for this process too; return the paths to add."""
    if wheels is None:
        return []
    if not wheels.is_dir():
        raise ValueError(f"--wheels: expected a folder of wheels, got {wheels}")
    wanted = [str(w) for w in sorted(wheels.glob("*.whl")) if not _is_installed(w.name.split("-")[0])]
    if not wanted:
        return []
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(site))
    subprocess.run([*pip, *wanted], check=True)
    sys.path.append(str(site))
    return [site]


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def missing(modules: dict[str, str]) -> list[str]:
    return [distribution for module, distribution in modules.items() if find_spec(module) is None]


def remedy(distributions: Sequence[str]) -> str:
    tags = " ".join(f"--platform manylinux{tag}_x86_64" for tag in ("_2_28", "_2_17", "2014"))
    python = f"--python-version {sys.version_info.major}.{sys.version_info.minor} --implementation cp {tags}"
    return (
        f"Where there is a network: python3 -m pip download -d wheels --no-deps --only-binary=:all: {python} "
        f"{' '.join(distributions)}; then here: make gpu PYTHON={sys.executable} WHEELS=wheels"
    )
