"""The directive ``theorem-ledger``: a table of all theorems, made from the stored outputs.

Its argument is the folder that holds the notebooks, from the source root. Each theorem is linked to
its box, and what is said about it is read from the record that its ``qed()`` left in the notebook:
the page cannot claim what no notebook shows.
"""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from companion.proof import LedgerError, Record, read_ledger


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def counts(record: Record) -> tuple[int, int, int, int]:
    """How many proofs, refuted mutants, checks and refuted wrong claims support a theorem."""
    return len(record.proofs), record.mutants, len(record.checks), len(record.refutations)


def summary(records: list[Record]) -> str:
    """The totals of the book."""
    proofs, mutants, checks, wrong = map(sum, zip(*map(counts, records), strict=True))
    return (
        f"{counted(len(records), 'theorem')}: {counted(proofs, 'exact proof')}, "
        f"{counted(mutants, 'mutant')} refuted, {counted(checks, 'numerical check')}, "
        f"{counted(wrong, 'wrong claim')} refuted."
    )


def breakable(statement: str) -> str:
    """A statement as formulae between which a line may break: at ``, \\quad`` outside of groups."""
    formulae, rest = [], ""
    for part in re.split(r",\s*\\q*quad\b", " ".join(statement.split())):
        rest = f"{rest},\\quad{part}" if rest else part.strip()
        if rest.count("{") == rest.count("}") and rest.count(r"\begin") == rest.count(r"\end"):
            formulae.append(rest.strip())
            rest = ""
    return ", ".join(f"${formula}$" for formula in [*formulae, rest.strip()] if formula)


def in_reading_order(records: list[Record], folder: str, contents: list[str]) -> list[Record]:
    """The records as a reader of the book meets them; ``contents`` lists its pages in order."""
    place = {page.rpartition(".")[0] or page: number for number, page in enumerate(contents)}
    pages = {r.notebook: f"{folder}/{r.notebook.removesuffix('.ipynb')}" for r in records}
    return sorted(records, key=lambda record: place.get(pages[record.notebook], len(place)))


def page(records: list[Record], folder: str) -> list[str]:
    """The ledger as lines of MyST: the totals, and a table for each chapter."""
    lines = [summary(records), ""]
    for notebook, theorems in groupby(records, key=lambda record: record.notebook):
        lines += [f"**{{doc}}`/{folder}/{notebook.removesuffix('.ipynb')}`**", ""]
        lines += [":::{list-table}", ":header-rows: 1", ""]
        lines += ["* - Theorem", "  - Statement"]
        lines += ["  - Proofs", "  - Mutants", "  - Checks", "  - Wrong"]
        for record in theorems:
            lines.append(f"* - {{prf:ref}}`{record.name}`")
            lines.append(f"  - {breakable(record.statement)}")
            lines += [f"  - {count}" for count in counts(record)]
        lines += [":::", ""]
    return lines


class TheoremLedger(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        (folder,) = self.arguments
        root = Path(self.env.srcdir) / folder
        try:
            records = read_ledger(root)
        except LedgerError as problem:
            raise self.error(f"the ledger of {folder} cannot be read: {problem}") from problem
        if not records:
            raise self.error(f"no notebook in {folder} holds the record of a theorem")
        for record in records:
            self.env.note_dependency(str(root / record.notebook))
        parent = nodes.container(classes=["theorem-ledger"])
        records = in_reading_order(records, folder, list(self.env.external_site_map))
        source = StringList(page(records, folder), source=str(root))
        self.state.nested_parse(source, self.content_offset, parent)
        return [parent]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("theorem-ledger", TheoremLedger)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
