"""What autocast does to the operands of a convolution or a matrix product, and whether it does."""

from __future__ import annotations

import torch
from torch import Tensor


def is_autocast(device: torch.device) -> bool:
    """Whether this is within a :class:`torch.autocast` for devices of that type."""
    kind = device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def autocast(*tensors: Tensor | None) -> list[Tensor | None]:
    """Within :class:`torch.autocast` cast the tensors as the vendor's kernels do.

    Args:
        tensors: All on one device.

    Returns:
        The tensors, those of floating point in autocast's dtype, but float64 as it is; outside of
        autocast all as they are.
    """
    device = next((t.device for t in tensors if isinstance(t, Tensor)), None)
    if device is None or not is_autocast(device):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device.type)
    return [tensor.to(dtype) if _is_cast(tensor) else tensor for tensor in tensors]


def _is_cast(tensor: object) -> bool:
    return (
        isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.dtype != torch.float64
    )
