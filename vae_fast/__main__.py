"""`python -m vae_fast`: the list of commands."""

import argparse
import ast
import sys
from pathlib import Path

COMMANDS = (
    *("train", "evaluate", "sample", "reconstruct", "interpolate", "traverse"),
    *("trace", "report", "compare", "export", "env"),
)


def main() -> None:
    commands = "".join(f"\n  python -m vae_fast.{name:<11} {_summary(name)}" for name in COMMANDS)
    parser = argparse.ArgumentParser(
        prog="python -m vae_fast",
        usage="python -m vae_fast.COMMAND [--help]",
        description="Trains Variational Autoencoders as fast as the machine allows.",
        epilog=f"commands:{commands}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if wrong := [argument for argument in sys.argv[1:] if argument not in ("-h", "--help")]:
        hint = f"with a dot: python -m vae_fast.{' '.join(wrong)}"
        hint = hint if wrong[0] in COMMANDS else "python -m vae_fast lists the commands"
        print(f"error: expected no arguments, got {' '.join(wrong)!r}: {hint}", file=sys.stderr)
        sys.exit(2)
    parser.print_help()


def _summary(command: str) -> str:
    """Return the first line of the module's docstring, read from its source: importing it would import torch."""
    source = Path(__file__).with_name(f"{command}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


if __name__ == "__main__":
    main()
