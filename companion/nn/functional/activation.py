"""Rectifiers by the book: a clip, whose derivative lets a gradient pass or not."""

from __future__ import annotations

from torch import Tensor
from torch.autograd import Function

from companion.nn.functional.real import require_real


def relu(x: Tensor) -> Tensor:
    r"""max(x, 0); the gradient passes where x > 0: at 0 it is 0, as in PyTorch."""
    return _clip("relu", x, None)


def relu6(x: Tensor) -> Tensor:
    r"""min(max(x, 0), 6); the gradient passes where 0 < x < 6."""
    return _clip("relu6", x, 6)


def _clip(name: str, x: Tensor, top: float | None) -> Tensor:
    require_real(name, x=x)
    return _Clip.apply(x, top)


class _Clip(Function):
    r"""min(max(x, 0), top); :math:`\bar x = G` where the result is inside, and 0 elsewhere."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, top):
        return x.clamp(0, top)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, top = inputs
        shut = output <= 0  # not "> 0": a NaN keeps its gradient, as in PyTorch
        if top is not None:
            shut = shut | (output >= top)
        ctx.save_for_backward(shut)
        ctx.save_for_forward(shut)

    @staticmethod
    def backward(ctx, G):
        (shut,) = ctx.saved_tensors
        return G.masked_fill(shut, 0), None

    @staticmethod
    def jvp(ctx, x_dot, _):
        (shut,) = ctx.saved_tensors
        return x_dot.masked_fill(shut, 0)
