"""Dropout by the book: a product with a random mask of mean 1."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function

from companion.nn.functional.real import require_real


def dropout(x: Tensor, p: float = 0.5) -> Tensor:
    r"""y = x ⊙ m, where m is 0 with probability p and else 1 / (1 - p), so that E[y] = x.

    The same numbers as :func:`torch.nn.functional.dropout` draws on a CPU from the same state of
    the generator; its CUDA kernel draws others.

    Args:
        x: any shape, floating point.
        p: the probability of a zero, 0 <= p <= 1.

    Returns:
        y, of x's shape and dtype.
    """
    require_real("dropout", x=x)
    kept = torch.empty_like(x).bernoulli_(1 - p)
    return _Mask.apply(x, kept / (1 - p) if p < 1 else kept)


class _Mask(Function):
    r"""y = x ⊙ m for a constant m: :math:`\bar x = G \odot m`, its own adjoint."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, mask):
        return x * mask

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, mask = inputs
        ctx.save_for_backward(mask)
        ctx.save_for_forward(mask)

    @staticmethod
    def backward(ctx, G):
        (mask,) = ctx.saved_tensors
        return _Mask.apply(G, mask), None

    @staticmethod
    def jvp(ctx, x_dot, _):
        (mask,) = ctx.saved_tensors
        return _Mask.apply(x_dot, mask)
