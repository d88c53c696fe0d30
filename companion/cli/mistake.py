"""What a command raises for a mistake of its user."""

from __future__ import annotations


class Mistake(Exception):
    """Told to the user as it is; the exit code is 2."""
