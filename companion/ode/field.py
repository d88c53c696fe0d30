"""The vector field as the solver sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from companion.ode.solution import Stats

#: A point of time: a float, or a 0-dim tensor where a gradient with respect to it is wanted.
Time = float | Tensor
Leaves = list[Tensor]


class Field:
    """``f(t, y, *args)`` on lists of tensors, checked and counted.

    The state is a pytree for the user and the list of its leaves for the solver.  A call gives f
    the time as a 0-dim tensor with the state's real dtype and device, and returns the leaves of
    what f returns, which must match the state's in structure, shapes and dtypes.

    Args:
        f: the user's function.
        spec: structure of the state.
        args: what f takes after t and y.
        time_dtype: real dtype of the time that f is given.
        stats: where evaluations are counted.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        spec: TreeSpec,
        args: tuple,
        time_dtype: torch.dtype,
        stats: Stats,
    ) -> None:
        self.f = f
        self.spec = spec
        # A state that is one tensor, the common case, is spared the walk through a tree.
        self.single = spec.is_leaf()
        self.args = args
        self.time_dtype = time_dtype
        self.stats = stats

    def __call__(self, t: Time, leaves: Leaves) -> Leaves:
        self.stats.evaluations += 1
        first = leaves[0]
        if isinstance(t, Tensor):
            time = t.to(dtype=self.time_dtype, device=first.device)
        else:
            # A fill, not a copy from the host: on a GPU it does not wait for the device.
            time = first.new_full((), t, dtype=self.time_dtype)
        if self.single:
            value = self.f(time, first, *self.args)
        else:
            value = self.f(time, tree_unflatten(leaves, self.spec), *self.args)
        rates = self._leaves(value)
        for rate, leaf in zip(rates, leaves, strict=True):
            if not isinstance(rate, Tensor):
                raise TypeError(
                    f"f returned {type(rate).__name__}, expected a tensor like the state: "
                    "wrap the value with torch.as_tensor"
                )
            if rate.shape != leaf.shape:
                raise ValueError(
                    f"f returned a tensor of shape {tuple(rate.shape)} for a state of shape "
                    f"{tuple(leaf.shape)}: dy/dt must have the shape of y"
                )
            if rate.dtype != leaf.dtype:
                raise TypeError(
                    f"f returned {rate.dtype} for a state of {leaf.dtype}: cast y0 or the "
                    "parameters of f so that both agree"
                )
        return rates

    def _leaves(self, value: Any) -> Leaves:
        if self.single and isinstance(value, Tensor):
            return [value]
        rates, spec = tree_flatten(value)
        if spec != self.spec:
            raise TypeError(
                f"f returned the structure {spec}, the state y0 has {self.spec}: "
                "return dy/dt with the same nesting of tuples, lists and dictionaries as y"
            )
        return rates
