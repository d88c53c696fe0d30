"""The loss of a classifier."""

from __future__ import annotations

import torch
from torch import Tensor

from companion.nn.choice import is_explicit
from companion.nn.functional.cross_entropy import check_options, cross_entropy


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """Softmax cross-entropy: :class:`torch.nn.CrossEntropyLoss`, explicitly
    :func:`~companion.nn.functional.cross_entropy`.

    Shapes: logits (C,), (N, C) or (N, C, d1, ...); target either class indices (int64 or uint8) of
    that shape without C, or probabilities of that shape.

    Raises:
        TypeError: logits or target are no tensors, or of a dtype that is not served.
        ValueError: their shapes do not go together, an option is out of its range, or a class index
            is. (A CUDA kernel reports the last as a device-side assertion.)
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        classes = _check_pair(self, input, target)
        options = self.weight, self.ignore_index, self.reduction, self.label_smoothing
        check_options(self, classes, target, *options)
        try:
            if is_explicit():
                return cross_entropy(input, target, *options)
            return super().forward(input, target)
        except (IndexError, RuntimeError):
            _check_indices(self, target, classes)  # says it better, if that was it
            raise


def _check_pair(layer: CrossEntropyLoss, logits: Tensor, target: Tensor) -> int:
    """The number of classes, if logits and target go together."""
    for name, value in (("logits", logits), ("target", target)):
        if not isinstance(value, Tensor):
            raise TypeError(
                f"{layer}: expected {name} as a torch.Tensor, got {type(value).__name__}; "
                "convert them: torch.as_tensor(...)"
            )
    if not logits.is_floating_point():
        raise TypeError(
            f"{layer}: expected floating-point logits, got {logits.dtype}; "
            "the arguments are (logits, target), in this order"
        )
    if logits.dim() == 0:
        raise ValueError(f"{layer}: expected logits (N, C), got a scalar")
    shape = tuple(logits.shape)
    index_shape = shape[:1] + shape[2:] if len(shape) > 1 else ()
    expected = shape if target.is_floating_point() else index_shape
    if tuple(target.shape) == expected and _served(target.dtype):
        return shape[min(1, len(shape) - 1)]
    raise _mismatch(layer, shape, index_shape, target)


def _served(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype in (torch.int64, torch.uint8)


def _mismatch(
    layer: CrossEntropyLoss, shape: tuple, index_shape: tuple, target: Tensor
) -> TypeError | ValueError:
    """The error for a target that does not go with logits of that shape."""
    came = tuple(target.shape)
    head = (
        f"{layer}: expected class indices of dtype int64 and shape {index_shape}, or probabilities "
        f"of shape {shape}, for logits of shape {shape}; got {target.dtype} of shape {came}"
    )
    if came == shape and not target.is_floating_point():
        return TypeError(f"{head}; one-hot rows? target.argmax(1), or target.float()")
    if came == index_shape:
        return TypeError(f"{head}; class indices? target.long()")
    if came == (*index_shape, 1):
        return ValueError(f"{head}; drop the last axis: target.squeeze(-1)")
    return ValueError(head)


def _check_indices(layer: CrossEntropyLoss, target: Tensor, classes: int) -> None:
    if target.is_floating_point() or target.device.type != "cpu":
        return
    wrong = ((target < 0) | (target >= classes)) & (target != layer.ignore_index)
    if not wrong.any():
        return
    value = target[wrong][0].item()
    cure = "does the last layer have an output for each class?"
    if value == classes:
        cure = f"labels that count from 1? Subtract it: target - 1; else {cure}"
    elif value < 0:
        cure = f"a mark for 'no label'? Say CrossEntropyLoss(ignore_index={value})"
    raise ValueError(
        f"{layer}: expected class indices from 0 to {classes - 1}, got {value} "
        f"(in {int(wrong.sum())} of {target.numel()} places); {cure}"
    ) from None
