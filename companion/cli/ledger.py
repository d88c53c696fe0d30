"""``companion ledger``: the table of all theorems."""

from __future__ import annotations

import argparse
from pathlib import Path

from companion.cli.mistake import Mistake
from companion.text_table import text_table

_HEADERS = ("theorem", "chapter", "proofs", "mutants refuted", "checks", "refutations", "statement")


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "ledger",
        help="print the table of all theorems",
        description="Print the table of all theorems, read from the stored outputs of the "
        "notebooks.",
    )
    parser.add_argument(
        "--book",
        type=Path,
        default=Path("book"),
        metavar="PATH",
        help="folder with the notebooks (default: ./book)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> str:
    """The table of the theorems of a book.

    Raises:
        Mistake: There is no such book, or it is not readable, or has no theorems.
    """
    from companion.proof import LedgerError, read_ledger

    try:
        records = read_ledger(options.book)
    except LedgerError as error:
        raise Mistake(error) from error
    if not records:
        raise Mistake(f"no theorem is recorded under {options.book}")
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
    return text_table(_HEADERS, rows)


def _bounds(record) -> list[str]:
    return list(dict.fromkeys(check.bound for check in record.checks))
