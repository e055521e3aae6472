"""Numbers on a command line: types for argparse that say what they expected."""

import argparse
import math

from vae_fast.config import MOST_THREADS


def thread_count(text: str) -> int:
    """For argparse: as `Config.threads`."""
    return _integer(text, 1, f"1 to {MOST_THREADS}", MOST_THREADS)


def whole_number(text: str) -> int:
    """For argparse: 0, 1, ..."""
    return _integer(text, 0, "a whole number from 0")


def positive_number(text: str) -> int:
    """For argparse: 1, 2, ..."""
    return _integer(text, 1, "a whole number from 1")


def non_negative(text: str) -> float:
    """For argparse: a finite number from 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number from 0, got {text!r}")
    return value


def at_least_two(text: str) -> int:
    """For argparse: 2, 3, ..."""
    return _integer(text, 2, "a whole number from 2")


def _integer(text: str, least: int, expected: str, most: int = 2**63 - 1) -> int:
    value = int(text) if text.isdecimal() and text.isascii() else -1
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
    return value
