"""The ledger: the records of all theorems, read from the stored outputs of notebooks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from companion.proof.errors import LedgerError
from companion.proof.record import MIME, Record

_SKIPPED = {"_build", ".ipynb_checkpoints"}


def read_ledger(folder: str | Path) -> list[Record]:
    """Read the records of all theorems from the notebooks under a folder.

    Args:
        folder: A folder with notebooks, searched at any depth; ``_build`` and checkpoints are
            skipped.

    Returns:
        The records, sorted by the path of the notebook, then in the order of its cells.

    Raises:
        LedgerError: The folder does not exist, a notebook or a record in it is broken, or two
            theorems have one name.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise LedgerError(f"{folder} is not a folder; give the folder that holds the notebooks")
    records: list[Record] = []
    for path in sorted(folder.rglob("*.ipynb")):
        relative = path.relative_to(folder)
        if not _SKIPPED & set(relative.parts):
            records += _read_notebook(path, relative.as_posix())
    _require_distinct(records)
    return records


def _read_notebook(path: Path, name: str) -> list[Record]:
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        stored = [output["data"][MIME] for output in outputs if MIME in output.get("data", {})]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LedgerError(f"{name} is not a readable notebook: {error!r}") from error
    return [_read_record(data, name) for data in stored]


def _read_record(data: Any, name: str) -> Record:
    try:
        return Record.from_json(data, notebook=name)
    except LedgerError as error:
        raise LedgerError(f"{name}: {error}") from error


def _require_distinct(records: list[Record]) -> None:
    seen: dict[str, str] = {}
    for record in records:
        if record.name in seen:
            raise LedgerError(
                f"the theorem {record.name} stands in {seen[record.name]} and in "
                f"{record.notebook}; give one of them another name"
            )
        seen[record.name] = record.notebook
