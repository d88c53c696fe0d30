"""Tensors that require grad inside the arguments of f."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map


def tensors_in(args: tuple) -> list[Tensor]:
    """The tensors in a pytree that require grad, in the order of its leaves."""
    return [x for x in tree_leaves(args) if isinstance(x, Tensor) and x.requires_grad]


def substituted(args: tuple, tensors: Sequence[Tensor]) -> tuple:
    """The same pytree with others in the place of its tensors that require grad, in order."""
    others = iter(tensors)

    def other(x: object) -> object:
        return next(others) if isinstance(x, Tensor) and x.requires_grad else x

    return tree_map(other, args)


def detached(args: tuple) -> tuple:
    """The same pytree; tensors that require grad become leaves of a graph of their own."""
    return substituted(args, [x.detach().requires_grad_() for x in tensors_in(args)])
