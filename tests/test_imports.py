"""Imports point down only, and nobody pays for what he does not use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_import_contract() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", ["companion", "companion.proof"])
def test_import_does_not_load_torch(module: str) -> None:
    heavy = "{'torch', 'numpy', 'scipy', 'matplotlib'}"
    program = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("first", ["companion.odeint", "companion.solve", "companion.adjoint"])
def test_public_names_are_functions_whatever_is_imported_first(first: str) -> None:
    """`companion.solve` names a function and the module that holds it: the function wins."""
    use = "from companion import odeint, solve; assert callable(odeint) and callable(solve)"
    program = f"import {first}; {use}"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
