"""What the examples ask of a number on the command line."""

from __future__ import annotations

import argparse
import math


def count(word: str) -> int:
    """A number of things."""
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {word}")
    return number


def rate(word: str) -> float:
    """A learning rate."""
    number = float(word)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be positive and finite, got {word}")
    return number
