"""Which pixel meets which weight in a convolution, and whether images and kernels fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from torch import Tensor

from companion.nn.functional.real import require_real
from companion.nn.sizes import Pair, output_shape, paddings, parameter_count

Padding = int | Pair | tuple[Pair, Pair] | str


@dataclass(frozen=True)
class Geometry:
    r"""Which pixel meets which weight.

    At the output's place :math:`(i, j)`, the weight :math:`(a, b)` meets the pixel
    :math:`(s_1 i + d_1 a - p_1,\; s_2 j + d_2 b - p_2)`, or a zero where the image has no such
    pixel.

    Args:
        size: Height and width of the image.
        kernel: Height and width of the kernel.
        stride: :math:`(s_1, s_2)`.
        padding: Zeros ``((top, bottom), (left, right))``; :math:`p_1` is the top one, :math:`p_2`
            the left one.
        dilation: :math:`(d_1, d_2)`.
        groups: Into how many groups the channels fall that do not see each other.
    """

    size: Pair
    kernel: Pair
    stride: Pair
    padding: tuple[Pair, Pair]
    dilation: Pair
    groups: int

    @cached_property
    def places(self) -> Pair:
        """Height and width of the output."""
        return output_shape(self.size, self.kernel, self.stride, self.padding, self.dilation)

    @property
    def taps(self) -> Iterator[Pair]:
        """The positions (a, b) in the kernel."""
        return product(range(self.kernel[0]), range(self.kernel[1]))


def fit(
    name: str,
    input_size: Sequence[int],
    weight_size: Sequence[int],
    stride: int | Pair = 1,
    padding: Padding = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Geometry:
    """The geometry of a convolution, once its arguments are found to fit.

    Args:
        name: The name of the function, which opens the messages.
        input_size: (N, C, H, W).
        weight_size: (F, C/groups, K1, K2).
        stride: As in :func:`companion.nn.functional.conv2d`, like the remaining arguments.

    Raises:
        TypeError: A number is not an integer.
        ValueError: The sizes do not fit, or a number is out of range.
    """
    for argument, shape, meaning in (
        ("images", input_size, "(N, C, H, W)"),
        ("weights", weight_size, "(F, C/groups, K1, K2)"),
    ):
        if len(shape) != 4:
            raise ValueError(f"{name}: expected {argument} of shape {meaning}, got {tuple(shape)}")
    _, channels, *size = input_size
    filters, seen, *kernel = weight_size
    try:
        parameter_count(tuple(kernel), channels, filters, groups)
        sides = paddings(tuple(size), tuple(kernel), stride, padding, dilation)
        output_shape(tuple(size), tuple(kernel), stride, sides, dilation)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None
    if seen * groups != channels:
        raise ValueError(
            f"{name}: expected {seen * groups} channels, {seen} for each of {groups} groups, "
            f"got {channels} in images of shape {tuple(input_size)}"
        )
    return Geometry(tuple(size), tuple(kernel), _pair(stride), sides, _pair(dilation), groups)


def require_operands(name: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Require what :func:`require_floating` does, and a bias, if any, for each filter.

    Raises:
        TypeError: As in :func:`require_floating`.
        ValueError: The bias has another shape.
    """
    operands = {"x": x, "weight": weight}
    require_floating(name, **operands if bias is None else operands | {"bias": bias})
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"{name}: expected a bias of shape {tuple(weight.shape[:1])}, one for each filter, "
            f"got {tuple(bias.shape)}"
        )


def require_floating(name: str, **tensors: Tensor) -> None:
    """Require real tensors of one floating-point dtype.

    Raises:
        TypeError: One is not a tensor, or not of floating point, or the dtypes differ.
    """
    for argument, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"{name}: expected {argument} to be a torch.Tensor, got {type(tensor).__name__}"
            )
        require_real(name, **{argument: tensor})
        if not tensor.is_floating_point():
            raise TypeError(
                f"{name}: expected {argument} of floating point, got {tensor.dtype}; "
                f"convert it: {argument}.float()"
            )
    if len({tensor.dtype for tensor in tensors.values()}) > 1:
        found = ", ".join(f"{tensor.dtype} for {argument}" for argument, tensor in tensors.items())
        raise TypeError(f"{name}: expected tensors of one dtype, got {found}")


def _pair(value: int | Pair) -> Pair:
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)
