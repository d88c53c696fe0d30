"""The command line: ``companion ledger`` and its options."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from companion import __version__

_HEADERS = ("theorem", "chapter", "proofs", "mutants refuted", "checks", "refutations", "statement")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Arguments after the program name; those of the process by default.

    Returns:
        The exit code: 0, or 2 for a user's mistake.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    return options.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="companion",
        description="Neural ODEs, convolutions and Grad-CAM, proved by running.",
    )
    parser.add_argument("--version", action="version", version=f"companion {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    ledger = commands.add_parser(
        "ledger",
        help="print the table of all theorems",
        description="Print the table of all theorems, read from the stored outputs of the "
        "notebooks.",
    )
    ledger.add_argument(
        "--book",
        type=Path,
        default=Path("book"),
        metavar="PATH",
        help="folder with the notebooks (default: ./book)",
    )
    ledger.set_defaults(run=_ledger)
    return parser


def _ledger(options: argparse.Namespace) -> int:
    # Imported here so that --help and --version need no SymPy.
    from companion.proof import LedgerError, read_ledger

    try:
        records = read_ledger(options.book)
    except LedgerError as error:
        print(f"companion ledger: {error}", file=sys.stderr)
        return 2
    if not records:
        print(f"companion ledger: no theorem is recorded under {options.book}", file=sys.stderr)
        return 2
    rows = [
        (
            record.name,
            record.notebook,
            str(len(record.proofs)),
            str(record.mutants),
            f"{len(record.checks)} ({', '.join(_bounds(record))})",
            str(len(record.refutations)),
            " ".join(record.statement.split()),
        )
        for record in records
    ]
    print(_table(_HEADERS, rows))
    return 0


def _bounds(record) -> list[str]:
    return list(dict.fromkeys(check.bound for check in record.checks))


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned to the left, the last one as long as it is."""
    cells = [headers, *rows]
    widths = [max(len(row[k]) for row in cells) for k in range(len(headers))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (headers, rule, *rows)
    )
