"""Checks of what a layer is given; they run at every call, so what passes costs a few comparisons.

Each function returns at once when all is well and otherwise leaves it to a slow one to say, by the
layer's repr, what came, what was expected, and a cure.
"""

from __future__ import annotations

from numbers import Integral

import torch
import torch.fx
from torch import Tensor, nn

from companion.nn.functional.autocast import is_autocast


def require_image(
    layer: nn.Module,
    x: Tensor,
    channels: int | None = None,
    dtype: torch.dtype | None = None,
    *,
    batched: bool = False,
) -> None:
    """Require an image ``(C, H, W)`` or a batch of images ``(N, C, H, W)``.

    Args:
        layer: the layer that was called; its repr opens the message.
        x: its input.
        channels: what C must be; None allows any.
        dtype: the dtype of the layer's weight, where input and weight must agree; None allows any
            floating-point or complex dtype.
        batched: refuse a single image (C, H, W).

    Raises:
        TypeError: x is not a tensor, not of floating point, or not of the weight's dtype.
        ValueError: the rank or the channel count is wrong, or C, H or W is 0.
    """
    if (
        isinstance(x, Tensor)
        and (x.dtype is dtype or (dtype is None and x.is_floating_point()))
        and x.dim() == 4
        and (channels is None or x.shape[1] == channels)
        and x.numel() > 0
    ):
        return
    _inspect_type(layer, x, "image", dtype, cure="x.float() / 255")
    _inspect_image(layer, x, channels, batched)


def require_features(
    layer: nn.Module, x: Tensor, features: int, dtype: torch.dtype | None = None
) -> None:
    """Require a tensor ``(..., features)`` of floating point; for :class:`Linear`.

    Raises:
        TypeError: x is not a tensor, not of floating point, or not of the weight's dtype.
        ValueError: x has another number of features.
    """
    if (
        isinstance(x, Tensor)
        and (x.dtype is dtype or (dtype is None and x.is_floating_point()))
        and x.dim() > 0
        and x.shape[-1] == features
    ):
        return
    _inspect_type(layer, x, "input", dtype, cure="x.float()")
    _inspect_features(layer, x, features)


def require_batch(layer: str, x: Tensor) -> None:
    """Require a batch of any states, ``(N, C, ...)``.

    Raises:
        TypeError: x is not a tensor.
        ValueError: x has fewer than two axes.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{layer}: expected a torch.Tensor, got {type(x).__name__}")
    if x.ndim < 2:
        raise ValueError(
            f"{layer}: expected a batch of states, (N, C, ...), got an input of shape "
            f"{tuple(x.shape)}; a single one? Make it a batch of one: x[None]"
        )


def require_count(name: str, value: int, least: int) -> None:
    """Raise an error unless an argument is an integer that is large enough."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def _inspect_type(
    layer: nn.Module, x: object, noun: str, dtype: torch.dtype | None, cure: str
) -> None:
    if isinstance(x, torch.fx.Proxy):
        raise TypeError(
            f"{layer}: torch.fx cannot trace through the checks of this layer, only the layer as a "
            "whole; let is_leaf_module of your torch.fx.Tracer return True for it"
        )
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{layer}: expected a torch.Tensor, got {type(x).__module__}.{type(x).__qualname__}; "
            "convert it, e.g. torch.as_tensor(numpy.asarray(x))"
        )
    if not (x.is_floating_point() or x.is_complex()):
        raise TypeError(
            f"{layer}: expected a floating-point {noun}, got {x.dtype}; convert it: {cure}"
        )
    if dtype not in (None, x.dtype) and not is_autocast(x.device):
        raise TypeError(
            f"{layer}: expected {noun} and weight of one dtype, got {x.dtype} and {dtype}; "
            f"convert the input, x.to({dtype}), or the layer, layer.to({x.dtype})"
        )


def _inspect_image(layer: nn.Module, x: Tensor, channels: int | None, batched: bool) -> None:
    shape = tuple(x.shape)
    wanted = "C" if channels is None else channels
    if x.dim() != 4 and (batched or x.dim() != 3):
        single = "" if batched else f" or one image ({wanted}, H, W)"
        raise ValueError(
            f"{layer}: expected a batch of images (N, {wanted}, H, W){single}, "
            f"got an input of shape {shape}{_rank_hint(x.dim())}"
        )
    if channels is not None and shape[-3] != channels:
        raise ValueError(
            f"{layer}: expected {channels} channels, got {shape[-3]} in an input of shape {shape}"
            f"{_channel_hint(shape, channels)}"
        )
    if 0 in shape[-3:]:
        raise ValueError(
            f"{layer}: expected images of at least one channel and one pixel, "
            f"got an input of shape {shape}; an image that failed to load?"
        )


def _rank_hint(rank: int) -> str:
    return {
        2: "; a grey image (H, W)? Add its axes: x[None, None]",
        3: "; one image? Make it a batch of one: x[None]",
    }.get(rank, "")


def _channel_hint(shape: tuple[int, ...], channels: int) -> str:
    """The commonest cause of a wrong channel count, if the shape betrays it."""
    single = len(shape) == 3
    if shape[-1] == channels:
        order = "2, 0, 1" if single else "0, 3, 1, 2"
        return f"; channels in the last axis? Put them first: x.permute({order})"
    if (shape[-3], channels) == (4, 3):
        return f"; an image with an alpha channel? Drop it: {'x[:3]' if single else 'x[:, :3]'}"
    if (shape[-3], channels) == (1, 3):
        sizes = "3, -1, -1" if single else "-1, 3, -1, -1"
        return f"; a grey image? Repeat its channel: x.expand({sizes})"
    if (shape[-3], channels) == (3, 1):
        return "; a colour image? Average its channels: x.mean(-3, keepdim=True)"
    return ""


def _inspect_features(layer: nn.Module, x: Tensor, features: int) -> None:
    shape = tuple(x.shape)
    if x.dim() > 0 and shape[-1] == features:
        return
    hint = ""
    if x.dim() in (3, 4) and x[-1].numel() == features:
        hint = "; images or feature maps? Flatten them first: x.flatten(1), or a Flatten layer"
    elif x.dim() == 2:
        hint = (
            "; if a Flatten comes before this layer, its width is C·H·W of the feature maps, "
            "so it changes with the size of the image: give the network images of the size it "
            "was made for, or put GlobalAvgPool2d in the place of Flatten"
        )
    raise ValueError(
        f"{layer}: expected {features} features in the last axis, "
        f"got {shape[-1] if shape else 'none'} in an input of shape {shape}{hint}"
    )
