"""Guided backpropagation: the gradient at the image, with negative signals stopped on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from companion.cam.capture import as_found
from companion.cam.gradcam import GradCAM, require_images, require_model
from companion.cam.layers import Layer
from companion.cam.targets import Targets, ask, require_names
from companion.nn.choice import is_explicit


class _GuidedClamp(torch.autograd.Function):
    """ReLU, or ReLU6, whose backward pass lets positive gradients through alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, upper: float) -> Tensor:
        y = x.clamp(0, upper)
        ctx.save_for_backward((y > 0) & (y < upper))
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (active,) = ctx.saved_tensors
        return gradient.relu() * active, None


def _relu(input: Tensor, inplace: bool = False) -> Tensor:
    return _written(input, _GuidedClamp.apply(input, float("inf")), inplace)


def _relu6(input: Tensor, inplace: bool = False) -> Tensor:
    return _written(input, _GuidedClamp.apply(input, 6.0), inplace)


def _hardtanh(
    input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Tensor:
    """The module ReLU6 calls this with 0 and 6; others of its kind are no ReLUs."""
    if min_val != 0:
        return F.hardtanh(input, min_val, max_val, inplace)
    return _written(input, _GuidedClamp.apply(input, max_val), inplace)


def _written(input: Tensor, output: Tensor, inplace: bool) -> Tensor:
    return input.copy_(output) if inplace else output


def _relu_(input: Tensor) -> Tensor:
    return _relu(input, inplace=True)


_INSTEAD: dict[Callable[..., Any], Callable[..., Tensor]] = {
    F.relu: _relu,
    torch.relu: _relu,
    Tensor.relu: _relu,
    F.relu_: _relu_,
    torch.relu_: _relu_,
    Tensor.relu_: _relu_,
    F.relu6: _relu6,
    F.hardtanh: _hardtanh,
}


class _Guided(TorchFunctionMode):
    """Every ReLU in the block is guided, also those that no module stands for."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return _INSTEAD.get(function, function)(*args, **(kwargs or {}))


def guided_backpropagation(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    *,
    names: Sequence[str] | None = None,
) -> Tensor:
    """The gradient of the score with respect to the image, through guided ReLUs.

    On the way back every ReLU (and ReLU6, as a module or as a function) passes on what is positive
    of the gradient, where its input was positive (Springenberg et al., 2015).  The picture is
    sharp; that it says little about the class is known (Adebayo et al., 2018) and measured in the
    book.

    Args:
        model: Any module; it is left as found.
        images: Shape ``(N, channels, H, W)``.
        targets: As for :class:`GradCAM`, one score to an image.
        names: The names of the classes.

    Returns:
        Shape ``(N, channels, H, W)``.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: The score does not depend on the images, there are several to an image, the
            gradient is not finite, or the layers are to be explicit
            (:func:`companion.nn.explicit`).
    """
    require_model(model)
    require_images(images)
    names = require_names(names)
    if is_explicit():
        raise ValueError("the explicit layers' ReLUs cannot be guided; leave companion.nn.explicit")
    with as_found(model, graph=True):
        leaf = images.detach().clone().requires_grad_()
        with _Guided():
            output = model(leaf.clone())  # whose first operation may be in place
        asked = ask(targets, output, len(images), names)
        if asked.several:
            raise ValueError("targets: guided backpropagation takes one class for each image")
        score = asked.of(output, torch.arange(len(images), device=images.device), 0)
        if not score.requires_grad:
            raise ValueError("the score does not depend on the images")
        (gradient,) = torch.autograd.grad(score.sum(), leaf)
    if not bool(gradient.isfinite().all()):
        raise ValueError("the gradient is infinite or not a number; are images and parameters?")
    return gradient


def guided_grad_cam(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    *,
    layer: Layer | None = None,
    names: Sequence[str] | None = None,
) -> Tensor:
    """Guided backpropagation, weighted by the Grad-CAM heatmap (Selvaraju et al., 2017, sec. 3.2).

    Arguments as for :func:`guided_backpropagation`, and the layer of the heatmap.

    Returns:
        Shape ``(N, channels, H, W)``.
    """
    seen = GradCAM(model, layer, names=names)(images, targets)
    target = targets if seen.target is None else seen.target
    fine = guided_backpropagation(model, images, target, names=names)
    return fine * seen.heatmap(tuple(images.shape[-2:]))[:, None].to(fine)
