"""The package as a whole: the effects of importing it, the direction of its imports, the content of an install."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest
import torch

import vae_fast
from vae_fast.kernels import extension
from vae_fast.runtime.environment import cpp_compiler

ROOT = Path(vae_fast.__file__).parents[1]
SOURCES = {"vae_fast": ROOT / "vae_fast", "vae_fast.kernels": ROOT / "kernels"}
MODULES = {
    ".".join((package, *path.relative_to(folder).with_suffix("").parts)): path
    for package, folder in SOURCES.items()
    for path in folder.rglob("*.py")
    if path.parent.name != "assets"
}

# From the bottom layer up. A module imports from its own layer and from those below; all others are commands.
LAYERS = (
    "_version",
    "kernels",
    "errors",
    "paths",
    "config_rules",
    "config",
    "runtime",
    "data",
    "models",
    "objectives",
    "artifacts",
)
LAYERS += ("training", "analysis", "reporting", "cli")


def layer(module: str) -> int:
    name = module.split(".")[1]
    return LAYERS.index(name) if name in LAYERS else len(LAYERS)


def run(
    *command: str | Path, env: dict[str, str] | None = None, cwd: Path = ROOT
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=cwd)


def test_importing_has_no_side_effects_and_needs_no_triton() -> None:
    code = """
import sys
sys.modules["triton"] = None
import vae_fast
assert "torch" not in sys.modules, "import vae_fast imported torch"
for name in vae_fast.__all__:
    getattr(vae_fast, name)
import torch
assert not torch.cuda.is_initialized()
"""
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr


def test_the_kernels_folder_refuses_to_be_imported_as_a_package() -> None:
    done = run(sys.executable, "-c", "import kernels")
    assert done.returncode == 1
    assert "this folder is the package vae_fast.kernels" in done.stderr.splitlines()[-1]


def imports(module: str) -> Iterator[str]:
    """Yield the modules of vae_fast that a module imports, anywhere in its source."""
    package = module.rpartition(".")[0]
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            candidates = [(alias.name, f"{alias.name}.__init__") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package)
            candidates = [(f"{source}.{alias.name}", source, f"{source}.__init__") for alias in node.names]
        else:
            continue
        found = (next((name for name in names if name in MODULES), None) for names in candidates)
        yield from (name for name in found if name and name != "vae_fast.__init__")  # it imports everything lazily


def test_imports_point_downwards_only() -> None:
    graph = {module: set(imports(module)) for module in MODULES}
    upwards = [
        f"{module} imports {imported}"
        for module in graph
        for imported in graph[module]
        if layer(imported) > layer(module)
    ]
    assert not upwards
    assert len(graph["vae_fast.train"]) > 3, "the check has lost sight of the imports"
    TopologicalSorter(graph).prepare()  # raises on a cycle


def test_no_folder_has_too_many_modules() -> None:
    folders = Counter(path.parent for path in MODULES.values() if path.stem != "__init__")
    del folders[ROOT / "vae_fast"]
    assert max(folders.values()) <= 15


def test_the_architecture_names_every_file() -> None:
    """Check that docs/architecture.md has a section for each folder and a line for each file, and no others."""
    named = set()
    for section in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("\n### ")[1:]:
        folder = Path(section.partition("`")[2].partition("`")[0])
        named |= {folder / name for name in re.findall(r"^- `([^`]+)`: ", section, re.MULTILINE)}
    folders = ("vae_fast", "kernels", "benchmarks")
    files = {path for path in tracked_files() if path.parts[0] in folders and path.suffix in (".py", ".cpp", ".h")}
    files = {path for path in files if path.stem not in ("__init__", "__main__")}
    pairs = {path for path in files if path.suffix != ".py" and path.with_suffix(".h") in files}  # one line for both
    assert named >= files - {path for path in pairs if path.suffix == ".cpp"}
    assert named <= {*files, Path("vae_fast/__main__.py"), Path("benchmarks/nullgpu/__main__.py")}


def test_no_file_is_too_long() -> None:
    sources = [path for path in tracked_files() if path.suffix in (".py", ".cpp", ".h")]
    lengths = {str(path): (ROOT / path).read_text(encoding="utf-8").count("\n") for path in sources}
    assert not {path: length for path, length in lengths.items() if length > 350}


def tracked_files() -> list[Path]:
    """Return the files that a clone would have, and new ones that are not ignored, relative to ROOT."""
    done = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    if done.returncode:
        pytest.skip("not a git checkout")
    return [Path(name) for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a copy of all tracked files, which is enough for building."""
    for path in tracked_files():
        (tmp_path / "tree" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / "tree" / path)
    return tmp_path / "tree"


def without_compiler() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ("CC", "CXX")} | {"PATH": "/nowhere"}


def build_wheel(tree: Path, env: dict[str, str] | None = None) -> zipfile.ZipFile:
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", tree / "dist")
    done = run(sys.executable, "-m", "pip", "wheel", *options, tree, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (tree / "dist").iterdir()
    return zipfile.ZipFile(wheel)


def test_the_wheel_contains_vae_fast_and_nothing_else(tree: Path) -> None:
    """Build the C++ library from one source only, because all of them take a minute."""
    cmake = (tree / "CMakeLists.txt").read_text(encoding="utf-8")
    cmake = re.sub(r"(add_library\(vae_fast_C MODULE)[^)]*", r"\1 kernels/csrc/build_info.cpp", cmake)
    cmake = re.sub(r"^ *vae_fast_add_source\(.*\n", "", cmake, flags=re.MULTILINE)
    (tree / "CMakeLists.txt").write_text(cmake, encoding="utf-8")
    with build_wheel(tree) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        library = wheel.read("vae_fast/kernels/_C.so") if "vae_fast/kernels/_C.so" in names else None
    modules = {f"{module.replace('.', '/')}.py" for module in MODULES}
    data = {str(path) for path in tracked_files() if path.parts[:1] == ("vae_fast",) and path.suffix != ".py"}
    assert {name for name in names if "/_C" not in name} == modules | data
    assert {"vae_fast/py.typed", "vae_fast/kernels/functional.py", "vae_fast/presets/digits.toml"} < names
    if cpp_compiler():
        assert library is not None
        assert f"vae_fast built with torch {torch.__version__}\0".encode() in library
        assert str(tree).encode() not in library


@pytest.mark.skipif(not extension.load(), reason=extension.status())
def test_the_library_does_not_name_the_folder_of_its_sources() -> None:
    built = ROOT / "kernels" / "_C.so"
    if not built.exists():
        pytest.skip("the package is installed elsewhere")
    assert str(ROOT).encode() not in built.read_bytes()


def test_a_wheel_built_without_a_compiler_says_what_is_missing(tree: Path) -> None:
    (tree / "kernels" / "_C.so").write_text("of an earlier build")
    with build_wheel(tree, without_compiler()) as wheel:
        assert "vae_fast/kernels/_C.so" not in wheel.namelist()
        assert wheel.read("vae_fast/kernels/_C_missing.txt").startswith(b"no C++ compiler found; install g++")


def test_a_failed_build_leaves_no_stale_library(tree: Path) -> None:
    library, reason = tree / "kernels" / "_C.so", tree / "kernels" / "_C_missing.txt"
    library.write_text("of an earlier build")
    done = run(sys.executable, "setup.py", "build_ext", "--inplace", env=os.environ | {"CXX": "false"}, cwd=tree)
    assert done.returncode == 0, done.stderr
    assert not library.exists()
    assert reason.read_text().startswith("the C++ build failed: ")
