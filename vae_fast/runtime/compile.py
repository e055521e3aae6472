"""torch.compile as the engine uses it, and the cache that keeps compiled code from one run to the next."""

import hashlib
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from vae_fast.errors import RunError, first_line

P = ParamSpec("P")
R = TypeVar("R")


def keep_compiled_code() -> None:
    """Make Inductor and Triton keep what they compile in the user's cache, for the next run.

    PyTorch's default, which some of its imports set before we can, is in /tmp, which many machines empty at boot;
    TORCHINDUCTOR_CACHE_DIR selects another folder. Each instruction set has its own folder, because Inductor would
    reuse for AVX2 what it compiled for AVX-512, and bfloat16 results would then be wrong.
    """
    chosen = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    try:
        if chosen is None or Path(chosen).match(f"{tempfile.gettempdir()}/torchinductor_*"):
            chosen = _own_folder()
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = _one_word(chosen)
    except OSError:
        return  # PyTorch's default remains


def _own_folder() -> str:
    from platformdirs import user_cache_path

    folder = user_cache_path("vae_fast") / "compiled" / torch.backends.cpu.get_cpu_capability()
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)


def _one_word(folder: str) -> str:
    """Return the folder, or a link to it if its path would be split on the compiler's command line."""
    if _is_one_word(folder):
        return folder
    place = next((place for place in (tempfile.gettempdir(), "/tmp", "/var/tmp") if _is_one_word(place)), None)
    if place is None:
        raise FileNotFoundError("no folder for a link")
    links = Path(place, f"vae_fast-{os.getuid()}")
    links.mkdir(mode=0o700, exist_ok=True)
    if links.lstat().st_uid != os.getuid():
        raise PermissionError(f"{links} is another user's")
    link = links / hashlib.sha256(folder.encode()).hexdigest()[:16]
    with suppress(FileExistsError):
        link.symlink_to(Path(folder).absolute())
    return str(link)


def _is_one_word(path: str) -> bool:
    try:
        return shlex.split(path) == [path]
    except ValueError:  # an unclosed quotation mark
        return False


def compiled_with_backward(function: Callable[..., R]) -> Callable[..., R]:
    """Return a compiled version of a function of tensors that runs its own backward passes.

    It is compiled as a whole; shapes and all arguments that are not tensors are constants. torch.compile does not trace
    calls of autograd, so the first call records the operators that the function runs, including the backward ones, and
    compiles them together: the backward pass shares the values of the forward pass, and there is no boundary between
    them. The results have no gradients.
    """
    keep_compiled_code()  # before tracing, which may import code that chooses another folder
    kept: list[Callable[..., R]] = []

    def call(*args: Any) -> R:
        if not kept:
            kept.append(compiled(_operators_of(function, args).forward))
        with torch.no_grad():
            return kept[0](*args)

    return call


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Return `function` compiled by torch.compile as a whole; its shapes are constants."""
    keep_compiled_code()
    from torch._inductor import config  # slow to import, and only compiled runs need it

    setting = "cpp_cache_precompile_headers"
    options: dict[str, Any] = {setting: can_precompile_headers()} if hasattr(config, setting) else {}
    return torch.compile(_with_own_code(function), fullgraph=True, dynamic=False, options=options)


def can_precompile_headers() -> bool:
    """Return whether Inductor can precompile PyTorch's headers, which halves the time of each compilation.

    To name the result it runs the program `openssl`, which may not be installed, and it keeps the result in the folder
    for temporary files, whose path must not be split on its command line.
    """
    return shutil.which("openssl") is not None and _is_one_word(tempfile.gettempdir())


def _operators_of(function: Callable[..., R], args: tuple[Any, ...]) -> torch.fx.GraphModule:
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = make_fx(lambda *given: function(*given))(*args)  # make_fx would count the `self` of a bound method
    if any(isinstance(arg, Tensor) and arg.is_cuda for arg in args):
        _fold_activations(graph)
    return graph


def _fold_activations(module: torch.fx.GraphModule) -> None:
    """Fuse each product that adds a bias with the ReLU that follows: cuBLASLt applies both as it writes the result.

    It may turn NaN into 0, while PyTorch's ReLU keeps NaN. A NaN in the images still reaches the loss, as its target.
    """
    aten = torch.ops.aten
    for relu in module.graph.find_nodes(op="call_function", target=aten.relu.default):
        product = relu.args[0]
        if product.target is aten.addmm.default and not product.kwargs and len(product.users) == 1:
            with module.graph.inserting_before(relu):
                folded = module.graph.call_function(aten._addmm_activation.default, product.args)
            relu.replace_all_uses_with(folded)
            module.graph.erase_node(relu)
            module.graph.erase_node(product)
    module.recompile()


def _with_own_code(function: Callable[P, R]) -> Callable[P, R]:
    """Return the same function with its own copy of the code: Dynamo refuses to compile the same code a ninth time."""
    plain: Any = getattr(function, "__func__", function)
    code = plain.__code__.replace()
    twin = FunctionType(code, plain.__globals__, plain.__name__, plain.__defaults__, plain.__closure__)
    twin.__kwdefaults__ = plain.__kwdefaults__
    owner = getattr(function, "__self__", None)
    return twin if owner is None else MethodType(twin, owner)


@contextmanager
def compile_errors() -> Iterator[None]:
    """Turn an exception that torch.compile raises into a RunError of one line."""
    try:
        yield
    except Exception as error:  # not all of them are a RuntimeError
        is_of_compiler = type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))
        if not is_of_compiler and "tracing tensor" not in str(error):  # a branch on a value, in a user's function
            raise
        raise RunError(f"--compile: torch.compile failed: {first_line(error)}") from error
