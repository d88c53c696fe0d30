"""Derivatives that are not to be differentiated again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def final(
    derivatives: Sequence[Tensor], values: Sequence[Tensor], refusal: str
) -> tuple[Tensor, ...]:
    """The derivatives themselves; differentiating them raises a RuntimeError.

    torch's ``once_differentiable`` refuses a second derivative only where the incoming gradients
    require one, and else returns a constant without a word.

    Args:
        derivatives: what to return.
        values: what they depend on; makes sure that nothing that depends on it goes around this.
        refusal: the error's message.
    """
    return _Final.apply(refusal, *derivatives, *values)[: len(derivatives)]


class _Final(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(refusal: str, *values: Tensor) -> tuple[Tensor, ...]:
        return tuple(value.clone() for value in values)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.refusal = inputs[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        raise RuntimeError(ctx.refusal)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> tuple[Tensor, ...]:
        raise RuntimeError(ctx.refusal)
