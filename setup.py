"""Build the optional C++ operators with CMake; everything else about the package is in pyproject.toml.

They are an optimisation, so a failure here does not fail the installation: the reason is written to
kernels/_C_missing.txt, where `python -m vae_fast.env` finds it, because pip hides a build's output.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
ROOMS = [".".join(file.parent.relative_to(ROOT).parts) for file in sorted(ROOT.glob("vae_fast/*/**/__init__.py"))]
# The scripts folder of the building Python comes first: pip installs cmake and ninja there, even if it is not on PATH.
SEARCH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


class MissingError(Exception):
    """An error that says in one line what is missing for building the library."""


class BuildLibrary(build_ext):
    def run(self):
        folder = ROOT / "kernels" if self.inplace else Path(self.build_lib, "vae_fast", "kernels")
        folder.mkdir(parents=True, exist_ok=True)
        library, reason = folder / "_C.so", folder / "_C_missing.txt"
        library.unlink(missing_ok=True)  # from an earlier build, with other sources or another torch
        reason.unlink(missing_ok=True)
        try:
            shutil.copy(build_library(Path(self.build_temp, "cmake").resolve()), library)
        except (MissingError, OSError) as error:
            self.extensions = []  # nothing was built, so setuptools has nothing to look for
            reason.write_text(f"{error}\n")
            print(f"vae_fast goes without its C++ operators: {error}", file=sys.stderr)

    def get_ext_filename(self, fullname):
        return os.path.join(*fullname.split(".")) + ".so"  # not a Python module, so no tag of a Python version


def build_library(folder: Path) -> Path:
    try:
        import torch
        from torch.utils.cpp_extension import include_paths, library_paths
    except Exception as error:  # a damaged torch may raise anything
        raise MissingError(f"no torch ({error}); install it first, then build with --no-build-isolation") from error
    if "CXX" not in os.environ and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise MissingError("no C++ compiler found; install g++ or clang++, or set CXX")
    cmake, ninja = shutil.which("cmake", path=SEARCH), shutil.which("ninja", path=SEARCH)
    if cmake is None:
        raise MissingError("no CMake found; pip install cmake ninja")
    shutil.rmtree(folder, ignore_errors=True)  # a cached configuration may belong to another torch or compiler
    settings = {
        "CMAKE_BUILD_TYPE": "Release",
        "VAE_FAST_TORCH_VERSION": torch.__version__,
        "VAE_FAST_TORCH_INCLUDES": ";".join(include_paths()),
        "VAE_FAST_TORCH_LIBRARIES": ";".join(library_paths()),
        "VAE_FAST_CXX11_ABI": int(torch.compiled_with_cxx11_abi()),
    }
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
    run(cmake, "-S", ROOT, "-B", folder, *generator, *(f"-D{name}={value}" for name, value in settings.items()))
    run(cmake, "--build", folder)
    return folder / "_C.so"


def run(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    sys.stderr.write(done.stdout)
    if done.returncode:
        output = done.stdout
        first_error = " ".join(output[max(output.lower().find("error"), 0) :].split())[:300]
        raise MissingError(f"the C++ build failed: {first_error}")


setup(
    packages=["vae_fast", *ROOMS, "vae_fast.kernels", "vae_fast.kernels.triton"],
    package_dir={"vae_fast": "vae_fast", "vae_fast.kernels": "kernels"},
    ext_modules=[Extension("vae_fast.kernels._C", sources=[])],
    cmdclass={"build_ext": BuildLibrary},
)
