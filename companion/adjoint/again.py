"""Derivatives of every order of a function that has to be computed from leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from companion.adjoint.products import derivatives

#: From leaves of a graph of their own, and whether the values are to be differentiated, to values.
FromLeaves = Callable[[Sequence[Tensor], bool], Sequence[Tensor]]


def differentiable(
    function: FromLeaves, inputs: Sequence[Tensor], params: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """``function(inputs)`` as one operation with derivatives of every order.

    A gradient that is computed inside of a backward pass, by `torch.autograd.grad`, has to start
    from leaves: from an input with a history, it would go on into that history, and what the
    parameters have to do with it would be counted twice.  So every derivative is computed from
    leaves, and is itself such an operation when a derivative of it is wanted.

    Args:
        function: computes the values, from copies of the inputs and from the parameters.
        inputs: what it is given copies of.
        params: leaves that it uses as they are.
    """
    return _FromLeaves.apply(function, len(inputs), *inputs, *params)


def fresh(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same values as leaves of a graph of their own, where they require grad."""
    return [x.detach().requires_grad_(x.requires_grad) for x in tensors]


class _FromLeaves(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: FromLeaves, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.function, ctx.count = function, count
        ctx.save_for_backward(*tensors)
        return tuple(x.detach() for x in function(fresh(tensors[:count]), False))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        tensors, needs = ctx.saved_tensors, ctx.needs_input_grad[2:]
        count = ctx.count
        params = tensors[count:]

        def pull_back(leaves: Sequence[Tensor], create_graph: bool) -> Sequence[Tensor]:
            with torch.enable_grad():
                values = ctx.function(leaves[:count], True)
            sources = [*leaves[:count], *params]
            wanted = [x for x, need in zip(sources, needs, strict=True) if need]
            return derivatives(values, wanted, leaves[count:], create_graph=create_graph)

        given = [*tensors[:count], *grads]
        if torch.is_grad_enabled():
            found = iter(differentiable(pull_back, given, params))
        else:
            found = iter(pull_back(fresh(given), False))
        return None, None, *(next(found) if need else None for need in needs)
