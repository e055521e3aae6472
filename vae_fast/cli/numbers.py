"""Number types for argparse, whose errors say what was expected."""

import argparse
import math

from vae_fast.config_rules import MOST_THREADS


def thread_count(text: str) -> int:
    """Parse a number of threads for argparse, in the range of `Config.threads`."""
    return _integer(text, 1, f"1 to {MOST_THREADS}", MOST_THREADS)


def whole_number(text: str) -> int:
    """Parse 0, 1, ... for argparse."""
    return _integer(text, 0, "a whole number from 0")


def positive_number(text: str) -> int:
    """Parse 1, 2, ... for argparse."""
    return _integer(text, 1, "a whole number from 1")


def non_negative(text: str) -> float:
    """Parse a finite number of at least 0 for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number from 0, got {text!r}")
    return value


def at_least_two(text: str) -> int:
    """Parse 2, 3, ... for argparse."""
    return _integer(text, 2, "a whole number from 2")


def _integer(text: str, least: int, expected: str, most: int = 2**63 - 1) -> int:
    value = int(text) if text.isdecimal() and text.isascii() else -1
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
    return value
