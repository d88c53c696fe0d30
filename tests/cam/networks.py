"""Small networks to explain, with positive parts in their maps."""

from __future__ import annotations

import torch
from torch import nn


def small(inplace: bool = False, head: str = "flatten") -> nn.Sequential:
    """Two convolutions, batch norm, and a head: "flatten" or "gap"; float64, in evaluation mode."""
    torch.manual_seed(0)
    pooled, width = (1, 6) if head == "gap" else (2, 24)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=inplace),
        nn.Conv2d(4, 6, 3, stride=2),
        nn.ReLU(inplace=inplace),
        nn.AdaptiveAvgPool2d(pooled),
        nn.Flatten(),
        nn.Linear(width, 5),
    )
    return model.double().eval()


def images(count: int = 3, size: int = 14) -> torch.Tensor:
    """Noise, shape ``(count, 3, size, size)``, float64."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, size, size, generator=generator, dtype=torch.float64)
