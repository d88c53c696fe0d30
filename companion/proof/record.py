"""The record of a proved theorem, as it is stored in a notebook's output."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from companion.proof.errors import LedgerError

#: MIME type under which a record is stored in a notebook.
MIME = "application/vnd.companion.theorem+json"

_VERSION = 1
_EVIDENCE = {
    "prove": {"label": str, "mutants": int, "dimensions": str},
    "check": {"label": str, "bound": str, "numbers": int},
    "refute": {"label": str, "point": str},
}


@dataclass(frozen=True)
class Proved:
    """An exact zero; ``mutants`` changed claims were refuted, the first at ``dimensions``."""

    label: str
    mutants: int
    dimensions: str
    kind: str = "prove"


@dataclass(frozen=True)
class Checked:
    """``numbers`` float64 numbers agree within ``bound``."""

    label: str
    bound: str
    numbers: int
    kind: str = "check"


@dataclass(frozen=True)
class Refuted:
    """A wrong statement is false at ``point``."""

    label: str
    point: str
    kind: str = "refute"


Evidence = Proved | Checked | Refuted
_KINDS = {"prove": Proved, "check": Checked, "refute": Refuted}


@dataclass(frozen=True)
class Record:
    """What is known about one theorem.

    Attributes:
        name: The theorem's label, as in the page.
        statement: Its statement in LaTeX.
        hypotheses: What it assumes, as text.
        evidence: Proofs, checks and refutations in the order in which they were given.
        notebook: Path of the notebook it was read from, relative to the folder that was read;
            empty for a theorem proved in this process.
    """

    name: str
    statement: str
    hypotheses: str
    evidence: tuple[Evidence, ...]
    notebook: str = ""

    @property
    def proofs(self) -> tuple[Proved, ...]:
        return tuple(e for e in self.evidence if isinstance(e, Proved))

    @property
    def checks(self) -> tuple[Checked, ...]:
        return tuple(e for e in self.evidence if isinstance(e, Checked))

    @property
    def refutations(self) -> tuple[Refuted, ...]:
        return tuple(e for e in self.evidence if isinstance(e, Refuted))

    @property
    def mutants(self) -> int:
        """How many mutants were refuted in all proofs together."""
        return sum(proof.mutants for proof in self.proofs)

    def to_json(self) -> dict[str, Any]:
        """The record as JSON data."""
        return {
            "version": _VERSION,
            "name": self.name,
            "statement": self.statement,
            "hypotheses": self.hypotheses,
            "evidence": [asdict(e) for e in self.evidence],
        }

    @classmethod
    def from_json(cls, data: Any, notebook: str = "") -> Record:
        """The record that JSON data describe.

        Raises:
            LedgerError: The data are not a record of this version.
        """
        if not isinstance(data, dict) or data.get("version") != _VERSION:
            raise LedgerError(f"not a theorem record of version {_VERSION}; run the notebook again")
        for key in ("name", "statement", "hypotheses"):
            if not isinstance(data.get(key), str):
                raise LedgerError(f"the record's {key} is {data.get(key)!r}, not text")
        if not isinstance(data.get("evidence"), list):
            raise LedgerError("the record's evidence is not a list")
        evidence = tuple(_evidence(item) for item in data["evidence"])
        return cls(data["name"], data["statement"], data["hypotheses"], evidence, notebook)


def _evidence(item: Any) -> Evidence:
    kind = item.get("kind") if isinstance(item, dict) else None
    if kind not in _EVIDENCE:
        raise LedgerError(f"the record holds evidence of the unknown kind {kind!r}")
    fields = {}
    for name, type_ in _EVIDENCE[kind].items():
        if type(item.get(name)) is not type_:
            raise LedgerError(f"{name} of a {kind} is {item.get(name)!r}, not {type_.__name__}")
        fields[name] = item[name]
    return _KINDS[kind](**fields)
