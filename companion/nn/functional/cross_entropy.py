"""Softmax cross-entropy by the book: -Σ q log p with p = softmax(z), and its gradient p - q."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor
from torch.autograd import Function

from companion.nn.functional.autocast import is_autocast
from companion.nn.functional.real import require_real

_REDUCTIONS = ("none", "mean", "sum")


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    r"""The softmax cross-entropy, as :func:`torch.nn.functional.cross_entropy`.

    A sample with logits z and target y, either probabilities or 1 at a class and 0 elsewhere, has

    .. math:: \ell = -\sum_c q_c \log p_c, \qquad p = \mathrm{softmax}(z), \qquad
        q_c = w_c \left((1 - \epsilon)\,y_c + \tfrac{\epsilon}{C}\right)

    with class weights w and label smoothing ε.  Where q sums to 1, :math:`\partial\ell/\partial z`
    is :math:`p - q`.

    Args:
        logits: (C,), (N, C) or (N, C, d1, ...).
        target: class indices of logits' shape without C, or probabilities of logits' shape.
        weight: w, (C,); None is all ones.
        ignore_index: samples of this class index count nothing.
        reduction: "none", "sum", or "mean".  The mean over class indices is weighted: it divides
            by the sum of the :math:`w_y`.  That over probabilities divides by the samples.
        label_smoothing: ε, 0 <= ε <= 1.

    Returns:
        The loss, a scalar; for "none" of logits' shape without C.  Half precision is computed in
        float32; the dtype is that of the logits, under autocast float32.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> logits = torch.zeros(1, 4, requires_grad=True)
        >>> cross_entropy(logits, torch.tensor([2])).backward()
        >>> logits.grad.tolist()
        [[0.25, 0.25, -0.75, 0.25]]
    """
    require_real("cross_entropy", logits=logits, target=target, weight=weight)
    axis = 1 if logits.dim() > 1 else 0
    check_options(
        "cross_entropy",
        logits.shape[axis],
        target,
        weight,
        ignore_index,
        reduction,
        label_smoothing,
    )
    dtype = reduce(
        torch.promote_types,
        (t.dtype for t in (logits, target, weight) if t is not None and t.is_floating_point()),
    )
    wide = torch.promote_types(dtype, torch.float32)
    z = logits.movedim(axis, -1).to(wide)
    if target.is_floating_point():
        y = target.movedim(axis, -1).to(wide)
        ignored = torch.zeros_like(y[..., 0], dtype=torch.bool)
        counts = torch.ones_like(y[..., 0])
    else:
        ignored = target == ignore_index
        y = _one_hot(target.masked_fill(ignored, 0), z.shape[-1], wide)
        counts = (y if weight is None else y * weight).sum(-1).masked_fill(ignored, 0)
    q = (1 - label_smoothing) * y + label_smoothing / z.shape[-1]
    loss, _ = _CrossEntropy.apply(z, q if weight is None else q * weight)
    loss = loss.masked_fill(ignored, 0)
    if reduction != "none":
        loss = loss.sum() / (counts.sum() if reduction == "mean" else 1)
    return loss if is_autocast(logits.device) else loss.to(dtype)


def check_options(
    name: object,
    classes: int,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
) -> None:
    """Raise a ValueError that begins with ``name`` where an option is out of its range."""
    if reduction not in _REDUCTIONS:
        raise ValueError(f"{name}: expected reduction among {_REDUCTIONS}, got {reduction!r}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"{name}: expected label_smoothing from 0 to 1, got {label_smoothing}")
    if weight is not None and weight.shape != (classes,):
        raise ValueError(
            f"{name}: expected a weight for each of the {classes} classes of the logits, "
            f"got weights of shape {tuple(weight.shape)}"
        )
    if ignore_index >= 0 and target.is_floating_point():
        raise ValueError(
            f"{name}: ignore_index={ignore_index} means nothing for a target of probabilities; "
            "leave it out, or give class indices"
        )


def _one_hot(target: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    zeros = torch.zeros(*target.shape, classes, dtype=dtype, device=target.device)
    return zeros.scatter(-1, target.long().unsqueeze(-1), 1)


def _product(q: Tensor, log_p: Tensor) -> Tensor:
    """q log p, where 0 log 0 = 0: a class ruled out (z = -inf) and not asked for costs nothing."""
    return torch.where(q == 0, 0, q * log_p)


class _CrossEntropy(Function):
    r"""(z, q) -> :math:`\ell = -\sum_c q_c \log p_c` and :math:`\log p`; classes in the last axis.

    From :math:`\log p_c = z_c - \log\sum_k e^{z_k}` and :math:`\partial \log p_c / \partial z_k =
    \delta_{ck} - p_k`, with :math:`s = \sum_c q_c`,

    .. math:: \bar z = g\,(s\,p - q) + \left(\bar l - p \sum_c \bar l_c\right), \qquad
        \bar q = -g \log p,

    where g and :math:`\bar l` are the gradients of the two outputs.  log p is an output for the
    sake of higher derivatives: these formulas are written in it, so autograd differentiates them
    by the same formulas.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(z, q):
        # Less its maximum, so that no exponential overflows.
        shifted = z - z.amax(-1, keepdim=True)
        log_p = shifted - shifted.exp().sum(-1, keepdim=True).log()
        return -_product(q, log_p).sum(-1), log_p

    @staticmethod
    def setup_context(ctx, inputs, outputs):
        _, q = inputs
        _, log_p = outputs
        ctx.save_for_backward(q, log_p)
        ctx.save_for_forward(q, log_p)

    @staticmethod
    def backward(ctx, g, l_bar):
        q, log_p = ctx.saved_tensors
        g, p = g.unsqueeze(-1), log_p.exp()
        z_bar = g * (q.sum(-1, keepdim=True) * p - q) + l_bar - p * l_bar.sum(-1, keepdim=True)
        return z_bar, -g * log_p if ctx.needs_input_grad[1] else None

    @staticmethod
    def jvp(ctx, z_dot, q_dot):
        q, log_p = ctx.saved_tensors
        log_p_dot = z_dot - (log_p.exp() * z_dot).sum(-1, keepdim=True)
        return -(q * log_p_dot + _product(q_dot, log_p)).sum(-1), log_p_dot
