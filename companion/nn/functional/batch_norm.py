"""Batch normalisation by the book: standardise each channel over the batch, then scale and shift.

The first step couples all values of a channel, which is where the backward pass comes from; the
second is affine.  In evaluation mode the statistics are constants, and all is affine.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd import Function

from companion.nn.functional.real import require_real


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    r"""Batch normalisation, as :func:`torch.nn.functional.batch_norm`.

    .. math:: y = \gamma \hat x + \beta, \qquad \hat x = \frac{x - \mu}{\sqrt{v + \epsilon}}

    In training :math:`\mu` and :math:`v` are the mean and the (biased) variance of the channel over
    its m = N·H·W values, and the running statistics move towards them,
    :math:`r \leftarrow (1 - \text{momentum})\,r + \text{momentum}\cdot s`, where the variance is
    the unbiased one, :math:`v\,m/(m-1)`.  Else they are the running statistics.

    Args:
        x: images (N, C, H, W); any (N, C, ...) will do.
        running_mean, running_var: (C,), changed in place in training; both or neither.
        weight, bias: :math:`\gamma` and :math:`\beta`, (C,); None is 1 and 0.
        training: use the statistics of the batch.
        momentum: weight of the batch in the running statistics.
        eps: :math:`\epsilon`.

    Returns:
        y, of x's shape and dtype.  Half precision is normalised in float32.

    Raises:
        ValueError: in training a channel has one value alone, so that its variance says nothing;
            or running statistics are needed and missing.

    Example:
        >>> x = torch.tensor([[[[1.0, 3.0]]], [[[5.0, 7.0]]]])
        >>> x_hat = batch_norm(x, training=True)
        >>> print(f"mean {x_hat.mean():.3f}, variance {x_hat.var(unbiased=False):.3f}")
        mean 0.000, variance 1.000
    """
    require_real("batch_norm", x=x, weight=weight, bias=bias)
    values = math.prod([x.shape[axis] for axis in _axes(x)])
    if training and values == 1:
        raise ValueError(
            "batch_norm: expected more than one value per channel in training, "
            f"got an input of shape {tuple(x.shape)}"
        )
    if not training and running_mean is None:
        raise ValueError("batch_norm: expected running statistics out of training, got None")
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if training:
        x_hat, _, mean, var = _Standardise.apply(wide, eps)
        if running_mean is not None and values:
            with torch.no_grad():
                _move(running_mean, mean, momentum)
                _move(running_var, var * (values / (values - 1)), momentum)
    else:
        x_hat = (wide - _per_channel(running_mean, x)) / _per_channel(
            torch.sqrt(running_var + eps), x
        )
    if weight is not None:
        beta = torch.zeros_like(weight) if bias is None else bias
        x_hat = _ScaleAndShift.apply(x_hat, weight, beta)
    return x_hat.to(x.dtype)


def _move(running: Tensor, statistic: Tensor, momentum: float) -> None:
    running.mul_(1 - momentum).add_(statistic, alpha=momentum)


def _axes(x: Tensor) -> list[int]:
    """All axes but the channels': those over which the statistics are taken."""
    return [0, *range(2, x.dim())]


def _per_channel(value: Tensor, x: Tensor) -> Tensor:
    """(C,) as (1, C, 1, 1)."""
    return value.view(-1, *[1] * (x.dim() - 2))


def _mean(x: Tensor) -> Tensor:
    return x.mean(_axes(x), keepdim=True)


class _Standardise(Function):
    r"""x -> :math:`\hat x` and :math:`r = (v + \epsilon)^{-1/2}`, and the statistics themselves.

    With :math:`\partial\mu = \langle\partial x\rangle` and
    :math:`\partial v = 2\langle(x - \mu)\,\partial x\rangle`, where :math:`\langle\cdot\rangle` is
    the mean over a channel,

    .. math:: \partial r = -r^2 \langle \hat x\, \partial x \rangle, \qquad \partial \hat x =
        r\,(\partial x - \langle\partial x\rangle - \hat x \langle\hat x\,\partial x\rangle).

    The second map is symmetric, so it is its own adjoint:

    .. math:: \bar x = r\,(G - \langle G\rangle - \hat x \langle\hat x\,G\rangle)
        - r^2 \hat x\,\bar r / m.

    r is an output for the sake of higher derivatives: the formulas are written in the outputs
    :math:`\hat x` and r, so that autograd differentiates them by these same formulas.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x, eps):
        mean = _mean(x)
        centred = x - mean
        var = _mean(centred * centred)
        r = torch.rsqrt(var + eps)
        return centred * r, r, mean.flatten(), var.flatten()

    @staticmethod
    def setup_context(ctx, inputs, outputs):
        x_hat, r, mean, var = outputs
        ctx.mark_non_differentiable(mean, var)
        ctx.save_for_backward(x_hat, r)
        ctx.save_for_forward(x_hat, r)

    @staticmethod
    def backward(ctx, G, r_bar, *_):
        x_hat, r = ctx.saved_tensors
        values = x_hat.numel() // r.numel()
        through_x_hat = r * (G - _mean(G) - x_hat * _mean(x_hat * G))
        return through_x_hat - r * r * x_hat * r_bar / values, None

    @staticmethod
    def jvp(ctx, x_dot, _):
        x_hat, r = ctx.saved_tensors
        projection = _mean(x_hat * x_dot)
        return r * (x_dot - _mean(x_dot) - x_hat * projection), -r * r * projection, None, None


class _ScaleAndShift(Function):
    r"""y = γ x + β by channel: :math:`\bar x = \gamma G`, :math:`\bar\gamma = \sum G x`,
    :math:`\bar\beta = \sum G`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, weight, bias):
        return x * _per_channel(weight, x) + _per_channel(bias, x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, _ = inputs
        ctx.save_for_backward(x, weight)
        ctx.save_for_forward(x, weight)

    @staticmethod
    def backward(ctx, G):
        x, weight = ctx.saved_tensors
        return G * _per_channel(weight, x), (G * x).sum(_axes(x)), G.sum(_axes(x))

    @staticmethod
    def jvp(ctx, x_dot, weight_dot, bias_dot):
        x, weight = ctx.saved_tensors
        return (
            x_dot * _per_channel(weight, x)
            + x * _per_channel(weight_dot, x)
            + _per_channel(bias_dot, x)
        )
