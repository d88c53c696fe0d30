"""What the host has to know about tensors, also under torch.vmap."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.forward_ad import unpack_dual


class _Largest(torch.autograd.Function):
    """The identity; where vmap has hidden an axis, the largest entry along it."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> None:
        return None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None], x: Tensor) -> tuple[Tensor, None]:
        (axis,) = in_dims
        return _Largest.apply(x if axis is None else x.amax(axis)), None


def read_back(x: Tensor) -> float:
    """The value of a 0-dim tensor on the host.

    What the host decides by it, `torch.func.vmap` cannot decide for every sample of a batch on
    its own: there it is the largest value in the batch, so that the worst sample decides for all.
    """
    try:
        return x.item()
    except RuntimeError:
        # vmap refuses.  Where something else is wrong, it is so again.
        return _Largest.apply(x).item()


def all_finite(x: Tensor) -> bool:
    """Whether every entry is finite; under vmap, in every sample."""
    if not x.numel():
        return True
    if x.is_complex():
        # The magnitude of a finite number may be infinite.
        x = torch.view_as_real(x.resolve_conj())
    # The largest magnitude, in one operation; a NaN is the largest of all.
    return math.isfinite(read_back(torch.linalg.vector_norm(x, math.inf)))


def read_all(x: Tensor, what: str) -> list:
    """The values of a tensor as nested lists of numbers.

    Raises:
        TypeError: under vmap, where they differ from sample to sample.
    """
    try:
        return x.detach().tolist()
    except RuntimeError as error:
        raise TypeError(
            f"{what} cannot be read back: under torch.func.vmap all samples share their times and "
            "steps; solve(batched=True) gives every sample its own, and events need a solve each"
        ) from error


def is_transformed() -> bool:
    """Whether a transform of torch.func, or forward-mode differentiation, is going on."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


class _Unwrapped(torch.autograd.Function):
    """Shows a tensor without the axes that vmap has hidden, which hide its flags as well."""

    @staticmethod
    def forward(x: Tensor, look: Callable[[Tensor], None]) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Any], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> None:
        return None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, None], x: Tensor, look: Callable[[Tensor], None]
    ) -> tuple[Tensor, int | None]:
        look(x)
        return x, in_dims[0]


def is_differentiated(x: Tensor) -> bool:
    """Whether a derivative of a tensor is wanted, in reverse or in forward mode.

    Inside `torch.func.vmap` a tensor does not tell whether it has one outside of it.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        return True
    try:
        if unpack_dual(x).tangent is not None:
            return True
    except RuntimeError:
        # vmap refuses.
        return True
    found: list[bool] = []
    # One entry, or none: looking must not cost what a copy does.
    _Unwrapped.apply(x.reshape(-1)[:1], lambda inner: found.append(is_differentiated(inner)))
    return any(found)
