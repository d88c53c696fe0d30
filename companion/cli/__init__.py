"""The command line: ``companion COMMAND``, each command in a module of its own.

A command's module has ``add``, which declares the command and its options, and ``run``, which
returns what is to be printed.  What that needs is imported there: ``--help`` needs no torch and no
SymPy.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from companion import __version__
from companion.cli import gradcam, ledger, summary
from companion.cli.mistake import Mistake

_COMMANDS = (gradcam, ledger, summary)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Arguments after the program name; those of the process by default.

    Returns:
        The exit code: 0, or 2 for a user's mistake.
    """
    options = _parser().parse_args(arguments)
    try:
        print(options.run(options))
    except Mistake as mistake:
        print(f"companion {options.command}: {mistake}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="companion",
        description="Neural ODEs, convolutions and Grad-CAM, proved by running.",
    )
    parser.add_argument("--version", action="version", version=f"companion {__version__}")
    commands = parser.add_subparsers(
        title="commands", dest="command", required=True, metavar="COMMAND"
    )
    for command in _COMMANDS:
        command.add(commands)
    return parser
