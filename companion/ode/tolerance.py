"""Tolerances as a user gives them (numbers, tensors, pytrees) and as the solver wants them."""

from __future__ import annotations

import math
import warnings
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves

from companion.ode.control import require_number
from companion.ode.field import Leaves, structure, time_dtype
from companion.ode.norm import Allowance, Tolerance, of_leaf
from companion.ode.read_back import read_back


def check_tolerance(name: str, value: Any) -> None:
    """Raise unless every part is a finite number, or tensor of such, and not negative."""
    for part in tree_leaves(value):
        if isinstance(part, Tensor):
            if part.requires_grad:
                raise ValueError(f"{name} requires grad, but no gradient flows to a tolerance")
            if part.is_complex() or part.dtype == torch.bool:
                raise TypeError(f"{name} has dtype {part.dtype}: tolerances must be real numbers")
            good = bool((torch.isfinite(part) & (part >= 0)).all())
        else:
            require_number(name, part)
            good = math.isfinite(part) and part >= 0
        if not good:
            raise ValueError(f"{name} must be finite and not negative, got {part}")


def require_allowance(rtol: Tolerance, atol: Tolerance, leaves: Leaves) -> None:
    """Raise where both tolerances of an element are zero.

    Args:
        rtol, atol: of these leaves, see `of_leaves`.
        leaves: of a state.
    """
    if isinstance(rtol, float) and isinstance(atol, float) and rtol + atol > 0:
        return
    for i, leaf in enumerate(leaves):
        most = torch.as_tensor(of_leaf(rtol, i) + of_leaf(atol, i))
        if leaf.numel() and not bool((most > 0).all()):
            raise ValueError(
                "rtol and atol are both zero for the same element: no step has an error that small"
            )


def warn_of_rounding(rtol: Tolerance, atol: Tolerance, y: Leaves) -> None:
    """Warn if a state of half precision cannot hold what the tolerances ask for.

    Steps become so small that their increments are rounded away, and the state stands still.
    """
    half = [i for i, leaf in enumerate(y) if leaf.dtype in (torch.float16, torch.bfloat16)]
    allowed = Allowance(rtol, atol, y)(y) if half else []
    for i in half:
        eps = torch.finfo(y[i].dtype).eps
        if read_back((allowed[i] < eps * y[i].detach().abs().float()).any()):
            warnings.warn(
                f"the tolerances are below the resolution of {y[i].dtype}, whose numbers are "
                f"{eps:.1g} apart, relatively: steps may be so small that what they add is "
                f"rounded away, and the result wrong; take rtol={eps:.1g} or larger, or a state "
                "in float32",
                stacklevel=4,
            )
            return


def of_leaves(name: str, value: Any, leaves: Leaves, spec: TreeSpec) -> Tolerance:
    """The tolerance as a number, or as a tuple with one for every leaf of the state.

    Raises:
        ValueError: if it has another structure than the state, or a tensor does not fit.
    """
    if isinstance(value, Real):
        return float(value)
    parts, own = tree_flatten(value)
    if isinstance(value, Tensor) and not spec.is_leaf():
        parts, own = [value] * len(leaves), spec
    if own != spec:
        raise ValueError(
            f"{name} is {structure(own)}, the state y0 is {structure(spec)}: give a number, a "
            "tensor that broadcasts to the state, or such with the structure of y0"
        )
    return tuple(_of_leaf(name, part, leaf) for part, leaf in zip(parts, leaves, strict=True))


def _of_leaf(name: str, part: Any, leaf: Tensor) -> float | Tensor:
    if not isinstance(part, Tensor):
        return float(part)
    try:
        fits = torch.broadcast_shapes(part.shape, leaf.shape) == leaf.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name} of shape {tuple(part.shape)} does not fit a state of shape "
            f"{tuple(leaf.shape)}: give a number or a tensor that broadcasts to that shape"
        )
    # Half precision would round a tolerance of 1e-8 to zero; errors are float32 there, too.
    dtype = torch.promote_types(time_dtype([leaf]), torch.float32)
    return part.to(device=leaf.device, dtype=dtype)
