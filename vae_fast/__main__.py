"""`python -m vae_fast COMMAND ...` and `vae-fast COMMAND ...`: run a command, or list them all."""

import argparse
import ast
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

from vae_fast.runtime.signals import end_quietly_before

COMMANDS = (
    *("train", "evaluate", "sample", "reconstruct", "interpolate", "traverse", "latents"),
    *("trace", "report", "compare", "export", "env"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names with the others, and return its exit code: 2 if there is none.

    arguments: those of the command line if None.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given:
        print(_help(), end="", file=sys.stderr)
        return 2
    name, *rest = given
    if name in ("-h", "--help"):
        print(_help(), end="")
        return 0
    if name not in COMMANDS:
        close = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"the commands are {', '.join(COMMANDS)}"
        print(f"error: expected a command, got {name!r}; {hint}", file=sys.stderr)
        return 2
    end_quietly_before("anything began")  # the imports take seconds
    code: int = import_module(f"vae_fast.{name}").main(rest)
    return code


def _help() -> str:
    commands = "".join(f"\n  {name:<11} {_summary(name)}" for name in COMMANDS)
    parser = argparse.ArgumentParser(
        prog="vae-fast",
        usage="python -m vae_fast COMMAND ..., or vae-fast COMMAND ...",
        description="Trains Variational Autoencoders as fast as the machine allows. COMMAND --help says more.",
        epilog=f"commands:{commands}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser.format_help()


def _summary(command: str) -> str:
    """Return the first line of the module's docstring, read from its source: importing it would import torch."""
    source = Path(__file__).with_name(f"{command}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
