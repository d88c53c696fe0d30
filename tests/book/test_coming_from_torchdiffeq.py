"""The page "Coming from torchdiffeq" leaves out no argument, option, callback or method."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import nbformat
import pytest
import torchdiffeq
from torchdiffeq._impl.misc import _all_adjoint_callback_names, _all_callback_names
from torchdiffeq._impl.odeint import SOLVERS

from companion.odeint.options import SCHEMES

PAGE = Path(__file__).resolve().parents[2] / "book/reference/coming_from_torchdiffeq.ipynb"
FUNCTIONS = ("odeint", "odeint_adjoint", "odeint_event")
#: What every solver's constructor takes from odeint itself, and its catch-alls.
NOT_OPTIONS = {"self", "func", "y0", "rtol", "atol", "kwargs", "unused_kwargs"}
#: Set by a class of torchdiffeq for the other, never by a user.
INTERNAL = {"implicit"}


def options_of(solver: type) -> set[str]:
    """The keywords that a solver and its bases take."""
    signatures = (inspect.signature(base.__init__) for base in solver.__mro__[:-1])
    return {name for signature in signatures for name in signature.parameters} - NOT_OPTIONS


SIGNATURES = [inspect.signature(getattr(torchdiffeq, name)) for name in FUNCTIONS]
ARGUMENTS = {name for signature in SIGNATURES for name in signature.parameters}
OPTIONS = set().union(*map(options_of, SOLVERS.values())) - INTERNAL
CALLBACKS = {*_all_callback_names, *_all_adjoint_callback_names}


@pytest.fixture(scope="module")
def tabulated() -> set[str]:
    """What the first two columns of the page's tables name as code."""
    cells = nbformat.read(PAGE, as_version=4).cells
    rows = [
        line.split("|")[1:3]
        for cell in cells
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
        if line.startswith("|")
    ]
    return {name for row in rows for part in row for name in re.findall(r"`(\w+)`", part)}


@pytest.mark.parametrize("name", sorted(ARGUMENTS | OPTIONS | CALLBACKS | set(SOLVERS)))
def test_what_torchdiffeq_takes_is_in_a_table(tabulated: set[str], name: str) -> None:
    assert name in tabulated


@pytest.mark.parametrize("method", sorted(SCHEMES))
def test_every_method_is_in_a_table(tabulated: set[str], method: str) -> None:
    assert method in tabulated


def test_there_is_much_to_tabulate() -> None:
    """The names above are looked up in torchdiffeq: a rename there must not empty the test."""
    assert {"adjoint_params", "event_fn", "reverse_time"} <= ARGUMENTS
    assert {"step_size", "jump_t", "max_iters", "solver", "dtype", "norm"} <= OPTIONS
    assert len(ARGUMENTS) >= 15
    assert len(OPTIONS) >= 18
