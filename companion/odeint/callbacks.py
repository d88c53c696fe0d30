"""torchdiffeq's callbacks: attributes of func that are told about every step."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from companion.ode.field import Leaves
from companion.ode.observe import Observer

NAMES = ("callback_step", "callback_accept_step", "callback_reject_step")


def observers_of(
    func: Callable[..., Any], y0: Any, method: str, known: set[str], *, backward: bool
) -> tuple[Observer, ...]:
    """The observers for the callbacks that func has, with torchdiffeq's warning for the rest.

    Args:
        func: what may have them as attributes; those of the backward solve end in ``_adjoint``.
        y0: the initial state, whose structure the callbacks see.
        method: its name, for the warning.
        known: the callbacks that it calls.
        backward: whether this is the solve of the adjoint.
    """
    suffix = "_adjoint" if backward else ""
    found = {name: getattr(func, name + suffix, None) for name in NAMES}
    found = {name: callback for name, callback in found.items() if callback is not None}
    if not found:
        return ()
    if unknown := sorted(name + suffix for name in set(found) - known):
        warnings.warn(
            f"method {method!r} does not support callbacks {unknown}: they are not called",
            stacklevel=4,
        )
    used = {name: callback for name, callback in found.items() if name in known}
    spec = None if backward else tree_flatten(y0)[1]
    return (_Callbacks(used, spec),) if used else ()


class _Callbacks(Observer):
    """Calls back with the time, the state as the user knows it, and the positive step size."""

    def __init__(self, callbacks: Mapping[str, Callable], spec: TreeSpec | None) -> None:
        self._callbacks = callbacks
        #: Structure of the state; None for the flat state of the adjoint.
        self._spec = spec

    def _call(self, name: str, t: float, y: Leaves, h: float) -> None:
        if name not in self._callbacks:
            return
        if self._spec is None:
            # torchdiffeq's adjoint state begins with the gradient of the time.
            state = (y[0].new_zeros(()), *y)
        else:
            state = tree_unflatten(y, self._spec)
        time, size = torch.tensor([t, abs(h)], dtype=torch.float64, device=y[0].device)
        self._callbacks[name](time, state, size)

    def tried(self, t: float, y: Leaves, h: float) -> None:
        self._call("callback_step", t, y, h)

    def accepted(self, t: float, y: Leaves, h: float) -> None:
        self._call("callback_accept_step", t, y, h)

    def rejected(self, t: float, y: Leaves, h: float) -> None:
        self._call("callback_reject_step", t, y, h)
