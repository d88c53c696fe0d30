"""Notebooks written by hand, for the tests that read them."""

from __future__ import annotations

import json
from pathlib import Path

from companion.proof import MIME

RECORD = {
    "version": 1,
    "name": "square",
    "statement": r"\frac{d}{dx} x^2 = 2x",
    "hypotheses": "",
    "evidence": [
        {"kind": "prove", "label": "derivative", "mutants": 3, "dimensions": ""},
        {"kind": "prove", "label": "again", "mutants": 4, "dimensions": "n = 2"},
        {"kind": "check", "label": "at 3", "bound": "relative error <= 1e-7", "numbers": 1},
        {"kind": "check", "label": "at 4", "bound": "relative error <= 1e-7", "numbers": 1},
        {"kind": "check", "label": "at 0", "bound": "absolute error <= 1e-9", "numbers": 2},
        {"kind": "refute", "label": "no factor", "point": "x = 2"},
    ],
}


def record(name: str) -> dict:
    return {**RECORD, "name": name}


def write(path: Path, *records: object) -> None:
    """A notebook with one cell for each record, between a text and an empty cell."""
    cells = [{"cell_type": "markdown", "metadata": {}, "source": "text"}]
    cells += [
        {
            "cell_type": "code",
            "execution_count": number,
            "metadata": {},
            "source": "thm.qed()",
            "outputs": [
                {"output_type": "stream", "name": "stdout", "text": "proved"},
                {
                    "output_type": "display_data",
                    "metadata": {},
                    "data": {"text/plain": "Theorem", MIME: data},
                },
            ],
        }
        for number, data in enumerate(records, 1)
    ]
    cells.append({"cell_type": "code", "metadata": {}, "source": "", "outputs": []})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}),
        encoding="utf-8",
    )
