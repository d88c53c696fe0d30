"""The forms in which torchdiffeq takes states, rates of change and tolerances."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from companion.ode.control import require_number

State = Tensor | tuple[Tensor, ...]


def number(value: Any) -> Any:
    """A tensor with one element as the number that it holds; anything else as it is."""
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def tolerance(name: str, value: Any, y0: State) -> Any:
    """A tolerance as a number, as a tensor, or with the structure of a tuple state.

    Raises:
        TypeError: if a part is no number.
        ValueError: if there is not one for each tensor of a tuple.
    """
    if hasattr(value, "__array__"):
        # Tensors and NumPy's arrays and scalars.
        value = number(torch.as_tensor(value))
    if isinstance(y0, tuple) and isinstance(value, Tensor | list | tuple):
        if len(value) != len(y0):
            raise ValueError(
                f"{name} has {len(value)} parts, the state y0 has {len(y0)} tensors: give one "
                "number, or one part for each"
            )
        return _as_is(y0, map(number, value))
    if isinstance(y0, Tensor) and isinstance(value, list | tuple):
        for part in value:
            require_number(name, part)
        return torch.tensor(value, dtype=torch.float64)
    return value


def of_own(y0: Any) -> Any:
    """The state in tensors of its own: what func does to their flags, the user's do not see."""
    if isinstance(y0, Tensor):
        return y0.view_as(y0)
    return tree_map_only(Tensor, lambda x: x.view_as(x), y0)


def returning_state(func: Callable[..., Any], y0: Any) -> Callable[..., Any]:
    """func, whose value may be any sequence where the state is a tuple."""
    if not isinstance(y0, tuple) or not callable(func):
        return func

    def rates(t: Tensor, y: Any) -> Any:
        value = func(t, y)
        fits = isinstance(value, list | tuple) and len(value) == len(y0)
        return _as_is(y0, value) if fits else value

    return rates


def _as_is(y0: tuple, parts: Iterable[Any]) -> tuple:
    """Parts in a tuple like y0, which may be a named one."""
    return y0._make(parts) if hasattr(y0, "_make") else tuple(parts)
