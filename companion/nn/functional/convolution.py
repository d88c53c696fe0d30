r"""The convolution as matrix products, with the backward pass that the book derives.

With images x, weights w and a weighting g of the output,

.. math::

    \langle g, w * x \rangle = \sum_{n,f,i,j} \sum_{c,a,b}
        g_{nfij}\; w_{fcab}\; x_{n,\,c,\,s_1 i + d_1 a - p_1,\,s_2 j + d_2 b - p_2}

is linear in each of the three.  So there are three maps: the convolution itself
(:func:`conv2d`), the factor of x (:func:`conv2d_input`: the gradient with respect to the images)
and the factor of w (:func:`conv2d_weight`: the gradient with respect to the weights).  Each is
bilinear, and the derivatives of each are the two others, which gives derivatives of every order.

All three go over the output in blocks, so that the matrix of im2col, K1·K2 times as large as the
images, never exists as a whole.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.autograd import Function

from companion.nn.functional.autocast import autocast
from companion.nn.functional.by_blocks import convolve, input_gradient, weight_gradient
from companion.nn.functional.geometry import (
    Geometry,
    Padding,
    fit,
    require_floating,
    require_operands,
)
from companion.nn.sizes import Pair


@torch.compiler.disable  # a compiled network runs it as it is: there is nothing to fuse
def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: Padding = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Tensor:
    r"""The convolution of neural networks, :func:`torch.nn.functional.conv2d`, by im2col.

    .. math::

        y_{nfij} = b_f + \sum_{c,a,b} w_{fcab}\;
            x_{n,\,c,\,s_1 i + d_1 a - p_1,\,s_2 j + d_2 b - p_2}

    with x = 0 outside of the image; c runs over the channels of the group of f.

    Args:
        x: Images, shape (N, C, H, W), or one image, shape (C, H, W).
        weight: Kernels, shape (F, C/groups, K1, K2).
        bias: Shape (F,), or None.
        stride: One number, or one for each axis; likewise ``dilation``.
        padding: One number; one for each axis; ``((top, bottom), (left, right))``; ``"valid"``;
            or ``"same"``, for every stride (see :func:`companion.nn.sizes.same_padding`).
        dilation: Distance between the pixels that neighbouring weights meet.
        groups: Number of groups of channels that do not see each other.

    Returns:
        Shape (N, F, H', W') or (F, H', W'), see :func:`companion.nn.sizes.output_shape`; laid out
        with the channels last if x is.

    Raises:
        TypeError: A tensor is not of floating point, or the dtypes differ.
        ValueError: The shapes do not fit, or a number is out of range.
    """
    x, weight, bias = autocast(x, weight, bias)
    require_operands("conv2d", x, weight, bias)
    if x.dim() == 3:
        return conv2d(x[None], weight, bias, stride, padding, dilation, groups)[0]
    geometry = fit("conv2d", x.shape, weight.shape, stride, padding, dilation, groups)
    return Convolution.apply(x, weight, bias, geometry)


def conv2d_input(
    input_size: Sequence[int],
    weight: Tensor,
    grad_output: Tensor,
    stride: int | Pair = 1,
    padding: Padding = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Tensor:
    r"""The gradient of :func:`conv2d` with respect to the images: its adjoint as a map of x.

    .. math::

        \bar x_{ncuv} = \sum g_{nfij}\, w_{fcab}
            \quad\text{over } s_1 i + d_1 a - p_1 = u,\; s_2 j + d_2 b - p_2 = v

    As matrices, :math:`U^\top(W^\top G)`: col2im of a product.  It is the transposed convolution.

    Args:
        input_size: The shape (N, C, H, W) of the images.
        weight: Kernels, shape (F, C/groups, K1, K2).
        grad_output: The gradient g with respect to the output, shape (N, F, H', W').
        stride: As in :func:`conv2d`, like the remaining arguments.

    Returns:
        Shape ``input_size``.

    Raises:
        TypeError: A tensor is not of floating point, or the dtypes differ.
        ValueError: The shapes do not fit, or a number is out of range.
    """
    require_floating("conv2d_input", weight=weight, grad_output=grad_output)
    geometry = fit("conv2d_input", input_size, weight.shape, stride, padding, dilation, groups)
    _require_output_shape("conv2d_input", grad_output, input_size[0], len(weight), geometry)
    return InputGradient.apply(grad_output, weight, geometry)


def conv2d_weight(
    x: Tensor,
    weight_size: Sequence[int],
    grad_output: Tensor,
    stride: int | Pair = 1,
    padding: Padding = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Tensor:
    r"""The gradient of :func:`conv2d` with respect to the weights: a correlation of x with g.

    .. math::

        \bar w_{fcab} = \sum_{n,i,j} g_{nfij}\;
            x_{n,\,c,\,s_1 i + d_1 a - p_1,\,s_2 j + d_2 b - p_2}

    As matrices, :math:`G\, U(x)^\top`.

    Args:
        x: Images, shape (N, C, H, W).
        weight_size: The shape (F, C/groups, K1, K2) of the weights.
        grad_output: The gradient g with respect to the output, shape (N, F, H', W').
        stride: As in :func:`conv2d`, like the remaining arguments.

    Returns:
        Shape ``weight_size``.

    Raises:
        TypeError: A tensor is not of floating point, or the dtypes differ.
        ValueError: The shapes do not fit, or a number is out of range.
    """
    require_floating("conv2d_weight", x=x, grad_output=grad_output)
    geometry = fit("conv2d_weight", x.shape, weight_size, stride, padding, dilation, groups)
    _require_output_shape("conv2d_weight", grad_output, len(x), weight_size[0], geometry)
    return WeightGradient.apply(x, grad_output, geometry)


class _Form(Function):
    """What the three maps share.  Each is called with its operands and then the geometry."""

    #: The axis of the channels (or filters) in each operand and in the result.
    axes: tuple[int, ...]
    #: Whether the first operand has samples, each of which is mapped alike.
    by_sample: bool

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        *operands, ctx.geometry = inputs
        ctx.save_for_backward(*operands)
        ctx.save_for_forward(*operands)
        ctx.set_materialize_grads(False)

    @classmethod
    def vmap(cls, info, in_dims, *inputs):
        """A batch of operands: more samples, or else more groups, since groups do not mix."""
        *operands, geometry = inputs
        *dims, _ = in_dims
        first, *others = operands
        if cls.by_sample and all(dim is None for dim in dims[1:]):
            first = first.movedim(dims[0], 0)
            result = cls.apply(first.flatten(0, 1), *others, geometry)
            return result.unflatten(0, first.shape[:2]), 0
        count = info.batch_size
        *axes, axis = cls.axes
        folded = map(functools.partial(_fold, count=count), operands, dims, axes)
        result = cls.apply(*folded, replace(geometry, groups=count * geometry.groups))
        return result.unflatten(axis, (count, -1)), axis


class Convolution(_Form):
    """``w * x + b``."""

    axes = 1, 0, 0, 1
    by_sample = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        return convolve(x, weight, bias, geometry)

    @staticmethod
    def backward(ctx, g):
        if g is None:
            return None, None, None, None
        x, weight, _ = ctx.saved_tensors
        x_needed, weight_needed, bias_needed, _ = ctx.needs_input_grad
        return (
            InputGradient.apply(g, weight, ctx.geometry) if x_needed else None,
            WeightGradient.apply(x, g, ctx.geometry) if weight_needed else None,
            g.sum((0, 2, 3)) if bias_needed else None,
            None,
        )

    @staticmethod
    def jvp(ctx, dx, dweight, dbias, _):
        x, weight, _ = ctx.saved_tensors
        terms = []
        if dx is not None:
            terms.append(Convolution.apply(dx, weight, None, ctx.geometry))
        if dweight is not None:
            terms.append(Convolution.apply(x, dweight, None, ctx.geometry))
        if dbias is not None:
            shape = len(x), len(weight), *ctx.geometry.places
            terms.append(dbias[:, None, None].expand(shape))
        return functools.reduce(operator.add, terms)


class InputGradient(_Form):
    """The factor of x in ``<g, w * x>``, a function of g and w."""

    axes = 1, 0, 1
    by_sample = True

    @staticmethod
    def forward(g: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        return input_gradient(g, weight, geometry)

    @staticmethod
    def backward(ctx, x):
        if x is None:
            return None, None, None
        g, weight = ctx.saved_tensors
        g_needed, weight_needed, _ = ctx.needs_input_grad
        return (
            Convolution.apply(x, weight, None, ctx.geometry) if g_needed else None,
            WeightGradient.apply(x, g, ctx.geometry) if weight_needed else None,
            None,
        )

    @staticmethod
    def jvp(ctx, dg, dweight, _):
        return _product_rule(InputGradient, ctx, dg, dweight)


class WeightGradient(_Form):
    """The factor of w in ``<g, w * x>``, a function of x and g."""

    axes = 1, 1, 0
    by_sample = False

    @staticmethod
    def forward(x: Tensor, g: Tensor, geometry: Geometry) -> Tensor:
        return weight_gradient(x, g, geometry)

    @staticmethod
    def backward(ctx, weight):
        if weight is None:
            return None, None, None
        x, g = ctx.saved_tensors
        x_needed, g_needed, _ = ctx.needs_input_grad
        return (
            InputGradient.apply(g, weight, ctx.geometry) if x_needed else None,
            Convolution.apply(x, weight, None, ctx.geometry) if g_needed else None,
            None,
        )

    @staticmethod
    def jvp(ctx, dx, dg, _):
        return _product_rule(WeightGradient, ctx, dx, dg)


def _product_rule(form: type[_Form], ctx, dfirst: Tensor | None, dsecond: Tensor | None) -> Tensor:
    """The derivative of a bilinear map, along directions of which one may be None for zero."""
    first, second = ctx.saved_tensors
    terms = []
    if dfirst is not None:
        terms.append(form.apply(dfirst, second, ctx.geometry))
    if dsecond is not None:
        terms.append(form.apply(first, dsecond, ctx.geometry))
    return functools.reduce(operator.add, terms)


def _fold(operand: Tensor | None, dim: int | None, axis: int, count: int) -> Tensor | None:
    """Make ``count`` times the channels out of a batch of operands (or copies of one)."""
    if operand is None:
        return None
    if dim is None:
        batch = operand.unsqueeze(axis)
        sizes = [-1] * batch.dim()
        sizes[axis] = count
        batch = batch.expand(sizes)
    else:
        batch = operand.movedim(dim, axis)
    return batch.flatten(axis, axis + 1)


def _require_output_shape(
    name: str, g: Tensor, samples: int, filters: int, geometry: Geometry
) -> None:
    expected = samples, filters, *geometry.places
    if g.shape != expected:
        raise ValueError(
            f"{name}: expected grad_output of the output's shape {expected}, got {tuple(g.shape)}"
        )
