"""Batch normalisation as a layer."""

from __future__ import annotations

import torch
from torch import Tensor

from companion.nn.choice import is_explicit
from companion.nn.functional.batch_norm import batch_norm
from companion.nn.layers.checks import require_image

_HALF = (torch.float16, torch.bfloat16)


class BatchNorm2d(torch.nn.BatchNorm2d):
    """Batch normalisation: :class:`torch.nn.BatchNorm2d`, explicitly
    :func:`~companion.nn.functional.batch_norm`.

    Shapes: (N, C, H, W) -> (N, C, H, W).

    Raises:
        TypeError: the input is no floating-point tensor, or not of the layer's dtype.
        ValueError: the input is no batch of images of C channels, or has a single value per channel
            when its own statistics are asked for.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not is_explicit():
            return super().forward(input)
        self._check_input_dim(input)
        tracked = self.track_running_stats or not self.training
        return batch_norm(
            input,
            self.running_mean if tracked else None,
            self.running_var if tracked else None,
            self.weight,
            self.bias,
            self._uses_the_batch(),
            self._next_momentum(),
            self.eps,
        )

    def _uses_the_batch(self) -> bool:
        return self.training or self.running_mean is None

    def _next_momentum(self) -> float:
        """Count this batch, and say what it weighs in the running statistics."""
        if not (self.training and self.track_running_stats):
            return 0.0
        self.num_batches_tracked.add_(1)
        # momentum=None asks for the plain average of all batches.
        return 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum

    def _check_input_dim(self, input: Tensor) -> None:
        # torch's forward calls it before anything else.
        require_image(self, input, self.num_features, batched=True)
        if input.numel() == self.num_features and self._uses_the_batch():
            raise ValueError(
                f"{self}: expected more than one value per channel to take statistics of, "
                f"got an input of shape {tuple(input.shape)}; give a batch of several images "
                "(a DataLoader's last batch of one? Set drop_last=True), or call eval()"
            )
        reference = self.running_mean if self.weight is None else self.weight
        if reference is None or input.dtype is reference.dtype:
            return
        if not (input.dtype in _HALF and reference.dtype is torch.float32):
            raise TypeError(
                f"{self}: expected an image of {reference.dtype} as the layer's own numbers, "
                f"got {input.dtype}; convert the input, x.to({reference.dtype}), or the layer, "
                f"layer.to({input.dtype})"
            )
