"""Neural ODEs, convolutional networks and Grad-CAM for PyTorch: the library behind the book.

The public names are loaded on first use, so that ``import companion.proof`` (pure SymPy) does
not pay for importing PyTorch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "odeint": "companion.odeint",
    "odeint_adjoint": "companion.odeint",
    "odeint_event": "companion.odeint",
    "solve": "companion.solve",
    "Solution": "companion.ode",
    "Stats": "companion.ode",
    "Event": "companion.ode",
    "FixedStep": "companion.ode",
    "PID": "companion.ode",
    "SolverError": "companion.ode",
    "Backsolve": "companion.adjoint",
    "Checkpointed": "companion.adjoint",
    "Direct": "companion.adjoint",
    "Gauss": "companion.adjoint",
    "Implicit": "companion.adjoint",
    "Reversible": "companion.adjoint",
}

__all__ = ["__version__", *sorted(_HOME)]


class _Package(ModuleType):
    """Keeps ``companion.odeint`` and ``companion.solve`` the functions.

    Importing a submodule binds its name in the package.  Two submodules are named after the
    function they hold; without this, ``from companion import odeint`` would give the function
    or the module, depending on what was imported before.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _HOME and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'companion' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
