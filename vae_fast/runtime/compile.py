"""torch.compile as the engine uses it, and where what it makes is kept from one run to the next."""

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
    """Have Inductor and Triton keep what they compile, for the next run, in the user's cache.

    PyTorch's own choice, which some of its imports make before us, is /tmp, and many machines empty that when they
    start; TORCHINDUCTOR_CACHE_DIR names another. Each instruction set has a folder: Inductor takes what it compiled for
    AVX-512 for AVX2 too, and bfloat16 is then wrong.
    """
    chosen = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    try:
        if chosen is None or Path(chosen).match(f"{tempfile.gettempdir()}/torchinductor_*"):
            chosen = _own_folder()
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = _one_word(chosen)
    except OSError:
        return  # PyTorch's choice, then


def _own_folder() -> str:
    from platformdirs import user_cache_path

    folder = user_cache_path("vae_fast") / "compiled" / torch.backends.cpu.get_cpu_capability()
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)


def _one_word(folder: str) -> str:
    """The folder, or a link to it where the compiler's command line would be cut within its path."""
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
    except ValueError:  # a quotation mark that is not closed
        return False


def compiled_with_backward(function: Callable[..., R]) -> Callable[..., R]:
    """A function of tensors that runs its own backward passes, compiled whole; shapes and all else are constants.

    torch.compile follows no call of autograd. So the first call of the function writes down the operators that it runs,
    backward ones too, and these are compiled as one: a backward pass shares what the forward pass holds, and nothing
    lies between them. Its results have no gradients.
    """
    keep_compiled_code()  # before tracing, which may import what chooses another folder
    kept: list[Callable[..., R]] = []

    def call(*args: Any) -> R:
        if not kept:
            kept.append(compiled(_operators_of(function, args)))
        with torch.no_grad():
            return kept[0](*args)

    return call


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """`function` by torch.compile, whole; its shapes are constants."""
    keep_compiled_code()
    from torch._inductor import config  # slow to import, and only compiled runs need it

    setting = "cpp_cache_precompile_headers"
    options: dict[str, Any] = {setting: can_precompile_headers()} if hasattr(config, setting) else {}
    return torch.compile(_of_its_own(function), fullgraph=True, dynamic=False, options=options)


def can_precompile_headers() -> bool:
    """Whether Inductor can compile PyTorch's headers once and for all, which halves the time of each compilation.

    To name them it runs the program `openssl`, which a machine need not have, and it keeps them in the folder for
    temporary files, whose path its command line must not cut.
    """
    return shutil.which("openssl") is not None and _is_one_word(tempfile.gettempdir())


def _operators_of(function: Callable[..., R], args: tuple[Any, ...]) -> torch.fx.GraphModule:
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = make_fx(lambda *given: function(*given))(*args)  # of a bound method it would count `self` too
    if any(isinstance(arg, Tensor) and arg.is_cuda for arg in args):
        _fold_activations(graph)
    return graph


def _fold_activations(module: torch.fx.GraphModule) -> None:
    """Let a product that adds a bias take the ReLU that follows it too: cuBLASLt does both as it writes the result.

    Of NaN it may make 0, where PyTorch's ReLU keeps NaN. Images' own NaN reach the loss all the same, as its target.
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


def _of_its_own(function: Callable[P, R]) -> Callable[P, R]:
    """The same function with code of its own: Dynamo counts compilations by code, and refuses the ninth."""
    if isinstance(function, torch.fx.GraphModule):
        return function  # whose code was written for it
    plain: Any = getattr(function, "__func__", function)
    code = plain.__code__.replace()
    twin = FunctionType(code, plain.__globals__, plain.__name__, plain.__defaults__, plain.__closure__)
    twin.__kwdefaults__ = plain.__kwdefaults__
    owner = getattr(function, "__self__", None)
    return twin if owner is None else MethodType(twin, owner)


@contextmanager
def compile_errors() -> Iterator[None]:
    """Turn what torch.compile raises into a RunError of one line."""
    try:
        yield
    except Exception as error:  # not all of them are a RuntimeError
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        raise RunError(f"--compile: torch.compile failed: {first_line(error)}") from error
