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


def time_dtype(leaves: Leaves) -> torch.dtype:
    """The real dtype in which f is given the time: that of the state."""
    dtype = leaves[0].dtype
    for leaf in leaves[1:]:
        dtype = torch.promote_types(dtype, leaf.dtype)
    return torch.empty((), dtype=dtype).abs().dtype if dtype.is_complex else dtype


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
        self.args = args
        self.time_dtype = time_dtype
        self.stats = stats
        # A state that is one tensor, the common case, is spared the walk through a tree.
        self._single = spec.is_leaf()
        #: What f returned last, and how often it had been written to by then.
        self._last: list[tuple[Tensor, int]] = []
        #: How many more evaluations to watch for writes in place: habits show at once.
        self._inspections = 3

    def __call__(self, t: Time, leaves: Leaves) -> Leaves:
        self.stats.evaluations += 1
        first = leaves[0]
        if isinstance(t, Tensor):
            time = t.to(dtype=self.time_dtype, device=first.device)
        elif first.dtype == self.time_dtype:
            # A fill, not a copy from the host: on a GPU it does not wait for the device.  That
            # of the state's own dtype is the cheaper one.
            time = first.new_full((), t)
        else:
            time = first.new_full((), t, dtype=self.time_dtype)
        if self._inspections:
            return self._inspected(time, leaves)
        if self._single:
            # The common case, in few words: the first evaluations were checked in full.
            rate = self.f(time, first, *self.args)
            if isinstance(rate, Tensor):
                if rate.shape == first.shape and rate.dtype == first.dtype:
                    return [rate]
            return self._leaves_of(rate, leaves)
        return self._evaluated(time, leaves)

    def _evaluated(self, time: Tensor, leaves: Leaves) -> Leaves:
        y = leaves[0] if self._single else tree_unflatten(leaves, self.spec)
        return self._leaves_of(self.f(time, y, *self.args), leaves)

    def _leaves_of(self, value: Any, leaves: Leaves) -> Leaves:
        rates, spec = tree_flatten(value)
        if spec != self.spec:
            raise TypeError(
                f"f returned {structure(spec)}, the state y0 is {structure(self.spec)}: "
                "return dy/dt with the same nesting of tuples, lists and dictionaries as y, and "
                "the keys of dictionaries in the same order"
            )
        return [self._checked(*pair) for pair in zip(rates, leaves, strict=True)]

    def _inspected(self, time: Tensor, leaves: Leaves) -> Leaves:
        """Evaluate f, and make sure that it writes neither to the state nor to what it returned.

        Both would change, under the solver's hands, what earlier stages were computed from.
        """
        self._inspections -= 1
        before = [_version(leaf) for leaf in leaves]
        rates = self._evaluated(time, leaves)
        if before != [_version(leaf) for leaf in leaves]:
            raise ValueError("f changed the state y in place: let it work on a copy, y.clone()")
        versions = [_version(rate) for rate in rates]
        for i, (rate, version) in enumerate(self._last):
            if rates[i] is rate and versions[i] != version:
                raise ValueError(
                    "f wrote its value into the tensor that it had returned before, which the "
                    "solver still needs: return a fresh tensor, or a clone()"
                )
        self._last = list(zip(rates, versions, strict=True)) if self._inspections else []
        return rates

    def _checked(self, rate: Any, leaf: Tensor) -> Tensor:
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
        if rate.device != leaf.device:
            raise ValueError(
                f"f returned a tensor on {rate.device} for a state on {leaf.device}: move what f "
                "computes with to the device of y0"
            )
        if rate.dtype != leaf.dtype:
            if rate.is_floating_point() and torch.is_autocast_enabled(leaf.device.type):
                return rate.to(leaf.dtype)
            raise TypeError(
                f"f returned {rate.dtype} for a state of {leaf.dtype}: cast y0 or the "
                "parameters of f so that both agree"
            )
        return rate


def structure(spec: TreeSpec) -> str:
    """The structure of a pytree in words."""
    return str(tree_unflatten(["tensor"] * spec.num_leaves, spec)).replace("'", "")


def _version(x: Tensor) -> int:
    """How often a tensor was written to; tensors made in inference mode do not count it."""
    return 0 if x.is_inference() else x._version
