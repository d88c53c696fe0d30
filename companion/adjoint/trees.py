"""Tensors that require grad inside the arguments of f."""

from __future__ import annotations

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map


def tensors_in(args: tuple) -> list[Tensor]:
    """The tensors in a pytree that require grad, in the order of its leaves."""
    return [x for x in tree_leaves(args) if isinstance(x, Tensor) and x.requires_grad]


def detached(args: tuple) -> tuple:
    """The same pytree; tensors that require grad become leaves of a graph of their own."""

    def fresh(x: object) -> object:
        if isinstance(x, Tensor) and x.requires_grad:
            return x.detach().requires_grad_()
        return x

    return tree_map(fresh, args)
