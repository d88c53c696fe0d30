r"""How the maps of a layer are weighted: :math:`M = \sum_k w_k \odot A_k`.

Every rule is a function of the layer's output :math:`A` and of the gradient
:math:`g = \partial y^c / \partial A`, both of shape ``(N, C, h, w)``, to the weights :math:`w`, of
shape ``(N, C, 1, 1)`` (one to a channel) or ``(N, C, h, w)`` (one to a position); but for
:func:`eigen_cam`, to which the class is nothing.  None has an
epsilon: a quotient whose denominator is zero is zero.
"""

from __future__ import annotations

import torch
from torch import Tensor


def grad_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    r"""The mean gradient (Selvaraju et al., 2017, eq. 1).

    :math:`\alpha_k = \frac{1}{hw} \sum_{ij} g_{kij}`.
    """
    return gradient.mean(dim=(2, 3), keepdim=True)


def grad_cam_plus_plus(activation: Tensor, gradient: Tensor) -> Tensor:
    r"""Positive gradients, weighted by position (Chattopadhay et al., 2018, eq. 19).

    :math:`w_k = \sum_{ij} a_{kij}\, \mathrm{relu}(g_{kij})` with
    :math:`a_{kij} = g_{kij}^2 / (2 g_{kij}^2 + g_{kij}^3 \sum_{ab} A_{kab})`, which holds for a
    class score that is the exponential of :math:`y^c`, whose value, a factor of all the weights of
    an image, is left out.
    """
    # Divided through by g^2: the same quotient, which does not underflow for small gradients.
    total = activation.sum(dim=(2, 3), keepdim=True)
    share = _quotient(torch.ones_like(gradient), 2 + gradient * total)
    return (share * gradient.relu()).sum(dim=(2, 3), keepdim=True)


def hires_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """The gradient itself, position by position (Draelos and Carin, 2020)."""
    return gradient


def layer_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """The positive part of the gradient, position by position (Jiang et al., 2021)."""
    return gradient.relu()


def xgrad_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    r"""The gradient averaged with the activation as weight (Fu et al., 2020).

    :math:`w_k = \sum_{ij} g_{kij} A_{kij} / \sum_{ij} A_{kij}`.
    """
    total = activation.sum(dim=(2, 3), keepdim=True)
    return _quotient((gradient * activation).sum(dim=(2, 3), keepdim=True), total)


def eigen_cam(activation: Tensor) -> Tensor:
    r"""The first right singular vector of the maps (Muhammad and Yeasin, 2020).

    With the maps of one image as the columns of an :math:`hw \times C` matrix.  The class plays no
    part.  A singular vector is known up to its sign; here the map's sum is not negative.
    """
    columns = activation.flatten(2).mT  # (N, hw, C)
    _, _, right = torch.linalg.svd(columns, full_matrices=False)
    first = right[:, 0, :]
    total = (columns * first[:, None, :]).sum(dim=(1, 2))
    sign = torch.where(total < 0, -1.0, 1.0).to(first)
    return (sign[:, None] * first)[:, :, None, None]


def _quotient(numerator: Tensor, denominator: Tensor) -> Tensor:
    """``numerator / denominator``, and zero where the denominator is."""
    zero = denominator == 0
    quotient = numerator / torch.where(zero, torch.ones_like(denominator), denominator)
    return torch.where(zero, torch.zeros_like(quotient), quotient)


RULES = {
    "grad-cam": grad_cam,
    "grad-cam++": grad_cam_plus_plus,
    "hires-cam": hires_cam,
    "layer-cam": layer_cam,
    "xgrad-cam": xgrad_cam,
}
