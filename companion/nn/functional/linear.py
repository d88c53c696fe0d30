"""The linear layer by the book: one matrix product, whose derivatives are matrix products."""

from __future__ import annotations

import math

from torch import Tensor
from torch.autograd import Function

from companion.nn.functional.autocast import autocast
from companion.nn.functional.real import require_real


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    r"""y = x Wᵀ + b, as :func:`torch.nn.functional.linear`.

    Args:
        x: (..., K).
        weight: W, (M, K).
        bias: b, (M,); None is zero.

    Returns:
        y, (..., M); under autocast of autocast's dtype.
    """
    require_real("linear", x=x, weight=weight, bias=bias)
    x, weight, bias = autocast(x, weight, bias)
    *batch, features = x.shape
    rows = x.reshape(math.prod(batch), features)
    return _Linear.apply(rows, weight, bias).view(*batch, len(weight))


class _Linear(Function):
    r"""Y = X Wᵀ + 1 bᵀ for matrices X (R, K) and W (M, K).

    For G = ∂L/∂Y, indexed sums over :math:`Y_{rm} = \sum_k X_{rk} W_{mk} + b_m` give

    .. math:: \bar X = G W, \qquad \bar W = G^{\mathsf T} X, \qquad \bar b_m = \sum_r G_{rm},

    and both products are again of this form: A Bᵀ with B = Wᵀ, and with A = Gᵀ, B = Xᵀ.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(X, W, b):
        Y = X @ W.mT
        return Y if b is None else Y + b

    @staticmethod
    def setup_context(ctx, inputs, output):
        X, W, _ = inputs
        ctx.save_for_backward(X, W)
        ctx.save_for_forward(X, W)

    @staticmethod
    def backward(ctx, G):
        X, W = ctx.saved_tensors
        return (
            _Linear.apply(G, W.mT, None) if ctx.needs_input_grad[0] else None,
            _Linear.apply(G.mT, X.mT, None) if ctx.needs_input_grad[1] else None,
            G.sum(0) if ctx.needs_input_grad[2] else None,
        )

    @staticmethod
    def jvp(ctx, X_dot, W_dot, b_dot):
        X, W = ctx.saved_tensors
        tangents = [_Linear.apply(X_dot, W, None), _Linear.apply(X, W_dot, None)]
        return sum(tangents) if b_dot is None else sum(tangents) + b_dot
