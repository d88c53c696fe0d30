"""How convolutions begin."""

from __future__ import annotations

from torch import nn


def he_normal(module: nn.Module) -> None:
    r"""Draw the weights of all convolutions of a network as He et al. (2015) do; biases are 0.

    The weights are normal with variance :math:`2 / n`, where n counts the outputs that one input
    reaches, :math:`n = K_1 K_2 F / \mathrm{groups}`: with ReLU between the layers, gradients
    keep their size on the way back.

    Source: He, Zhang, Ren, Sun, *Delving deep into rectifiers*, ICCV 2015, equation (14).
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            rows, columns = layer.kernel_size
            reached = rows * columns * layer.out_channels / layer.groups
            nn.init.normal_(layer.weight, std=(2 / reached) ** 0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
