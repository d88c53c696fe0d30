"""What do the explicit convolutions cost against PyTorch's, in time and in memory?

The layers are those of VGG at 224x224 with 3x3 kernels, one image, float32, one thread.  Forward is
without gradients; a training step is a forward and a backward pass, with the gradients of the
images, the weights and the biases.  Ratios are to torch.nn's times in the same rounds; where the
ratio of the medians and that of the minima differ, the machine was not quiet.

Memory is that of live tensors, beyond what a pass returns (see live_bytes.py), against the bytes of
the whole im2col matrix.

The other algorithms of the book, Winograd's and that by Fourier transforms, run forward.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from live_bytes import LiveBytes
from measure import interleaved, store
from torch import Tensor

from companion.nn import Conv2d, explicit
from companion.nn.functional import conv2d, fourier_conv2d, winograd_conv2d

#: Channels in and out, and the height and width of the image.
VGG = {
    "3 to 64 at 224": (3, 64, 224),
    "64 to 64 at 224": (64, 64, 224),
    "128 to 128 at 112": (128, 128, 112),
    "256 to 256 at 56": (256, 256, 56),
    "512 to 512 at 28": (512, 512, 28),
    "512 to 512 at 14": (512, 512, 14),
}
#: A layer so small that what Python adds could be seen.
SMALL = (8, 8, 14)
BASE = "torch.nn"
#: Even, so that both of a pair are first equally often.
ROUNDS = 16


def contenders(channels: int, filters: int, size: int) -> tuple[dict[str, Callable], Tensor]:
    """The layer of PyTorch and ours by each algorithm, with the same weights, and an input."""
    theirs = torch.nn.Conv2d(channels, filters, 3, padding=1)
    ours = Conv2d(channels, filters, 3, padding=1)
    ours.load_state_dict(theirs.state_dict())

    def by_the_book(x: Tensor) -> Tensor:
        with explicit():
            return ours(x)

    x = torch.randn(1, channels, size, size, requires_grad=True)
    return {BASE: theirs, "default": ours, "explicit": by_the_book}, x


def forward(layer: Callable, x: Tensor) -> Callable[[], Tensor]:
    def run() -> Tensor:
        with torch.no_grad():
            return layer(x)

    return run


def training_step(layer: Callable, x: Tensor) -> Callable[[], None]:
    g = torch.randn_like(layer(x))

    def run() -> None:
        x.grad = None
        layer(x).backward(g)

    return run


def compared(runs: dict[str, Callable], rounds: int = ROUNDS) -> dict[str, dict[str, float]]:
    """How many times as long as PyTorch's each of the others takes.

    Each is compared in a run of two, in which both come as often after the other as after
    themselves: who finds the cache full of others' data is at a disadvantage.
    """
    figures = {}
    for name in runs:
        if name == BASE:
            continue
        times = interleaved({BASE: runs[BASE], name: runs[name]}, rounds)
        median = {which: statistics.median(seconds) for which, seconds in times.items()}
        least = {which: min(seconds) for which, seconds in times.items()}
        figures[name] = {
            "milliseconds": round(1e3 * median[name], 3),
            "ratio of the medians": round(median[name] / median[BASE], 3),
            "ratio of the minima": round(least[name] / least[BASE], 3),
        }
    return figures


def layer_times(shape: tuple[int, int, int], rounds: int = ROUNDS) -> dict[str, object]:
    layers, x = contenders(*shape)
    return {
        "forward": compared({n: forward(layer, x) for n, layer in layers.items()}, rounds),
        "training step": compared(
            {name: training_step(layer, x) for name, layer in layers.items()}, rounds
        ),
    }


def memory(channels: int, filters: int, size: int) -> dict[str, float]:
    """The peak of live bytes of the explicit layer beyond its results, in MiB."""
    layers, x = contenders(channels, filters, size)
    layer = layers["explicit"]
    with LiveBytes() as count:
        y = layer(x)
    beyond = {"forward": count.peak - y.nbytes}
    g = torch.randn_like(y)
    with LiveBytes() as count:
        y.backward(g)
    parameters = layers["default"].parameters()
    gradients = sum(leaf.grad.nbytes for leaf in (x, *parameters))
    beyond["backward"] = count.peak - gradients
    beyond["whole im2col matrix"] = 9 * x.nbytes
    return {name: round(found / 2**20, 1) for name, found in beyond.items()}


def winograd_times(channels: int, filters: int, size: int) -> dict[str, object]:
    x, weight = torch.randn(1, channels, size, size), torch.randn(filters, channels, 3, 3)
    return compared(
        {
            BASE: lambda: torch.nn.functional.conv2d(x, weight, padding=1),
            "im2col": lambda: conv2d(x, weight, padding=1),
            "Winograd": lambda: winograd_conv2d(x, weight, padding=1),
        }
    )


def fourier_times(kernel: int) -> dict[str, object]:
    """Four channels of 128x128 pixels: the larger the kernel, the better for Fourier."""
    x, weight = torch.randn(1, 4, 128, 128), torch.randn(4, 4, kernel, kernel)
    return compared(
        {
            BASE: lambda: torch.nn.functional.conv2d(x, weight),
            "im2col": lambda: conv2d(x, weight),
            "Fourier": lambda: fourier_conv2d(x, weight),
        }
    )


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    store(
        "convolution",
        {
            "VGG's layers": {name: layer_times(shape) for name, shape in VGG.items()},
            "8 to 8 at 14": layer_times(SMALL, rounds=1000),
            "MiB beyond the results": {name: memory(*shape) for name, shape in VGG.items()},
            "Winograd, forward": {name: winograd_times(*shape) for name, shape in VGG.items()},
            "Fourier, forward, by kernel size": {k: fourier_times(k) for k in (3, 7, 15, 31)},
        },
    )


if __name__ == "__main__":
    main()
