"""Vector-Jacobian products where not everything depends on everything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


def pulled_back(
    values: Sequence[Tensor],
    inputs: Sequence[Tensor],
    cotangents: Sequence[Tensor | None],
    **options: bool,
) -> list[Tensor | None]:
    """The product of cotangents with the derivatives of values; None where it is zero.

    The options are those of `torch.autograd.grad`.
    """
    # What f returns may be constant, or some of its leaves.
    pairs = zip(values, cotangents, strict=True)
    live = [(x, grad) for x, grad in pairs if grad is not None and x.requires_grad]
    if not (live and inputs):
        return [None] * len(inputs)
    values, cotangents = zip(*live, strict=True)
    return list(torch.autograd.grad(values, inputs, cotangents, allow_unused=True, **options))


def derivatives(
    values: Sequence[Tensor],
    inputs: Sequence[Tensor],
    cotangents: Sequence[Tensor],
    *,
    create_graph: bool,
) -> list[Tensor]:
    """`pulled_back` with zeros for what it leaves out, and without the hooks of the inputs."""
    with hooks_off(inputs):
        found = pulled_back(values, inputs, cotangents, create_graph=create_graph)
    pairs = zip(inputs, found, strict=True)
    return [torch.zeros_like(x) if grad is None else grad for x, grad in pairs]


@contextmanager
def hooks_off(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Without the hooks of these tensors, and without adding to their ``grad``.

    Both are for the gradients that leave the backward pass, not for the parts that it adds up.
    """
    hooks = [(x, dict(x._backward_hooks)) for x in tensors if x._backward_hooks]
    grads = [(x, x.grad) for x in tensors if x.retains_grad]
    try:
        for x, _ in hooks:
            x._backward_hooks.clear()
        yield
    finally:
        for x, found in hooks:
            x._backward_hooks.update(found)
        for x, grad in grads:
            x.grad = grad
