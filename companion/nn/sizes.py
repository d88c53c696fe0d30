"""How large things are: outputs, paddings, parameters, multiply-adds, receptive fields.

Integer arithmetic alone.  Along one axis a convolution or a pooling puts a *window* on the input:
``kernel`` values that lie ``dilation`` apart, so that it spans :math:`d(k-1)+1` values.  The first
window starts at the first value of the padded input, and the next ones lie ``stride`` further on,
as long as they fit.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from functools import reduce
from typing import NamedTuple

Pair = tuple[int, int]


def output_size(
    n: int, kernel: int, stride: int = 1, padding: int | Pair = 0, dilation: int = 1
) -> int:
    r"""The number of windows that fit along one axis.

    .. math::

        n' = \left\lfloor\frac{n + p_0 + p_1 - d(k - 1) - 1}{s}\right\rfloor + 1

    Args:
        n: Size of the input.
        kernel: Number :math:`k` of values in a window.
        stride: Distance :math:`s` from one window to the next.
        padding: Zeros on both sides, or the pair :math:`(p_0, p_1)` of those before and after.
        dilation: Distance :math:`d` between neighbouring values of a window.

    Returns:
        The size of the output, at least 1.

    Raises:
        TypeError: An argument is not an integer.
        ValueError: An argument is out of range, or the window is larger than the padded input.

    Example:
        >>> output_size(200, kernel=5)
        196
    """
    n = _at_least(1, "n", n)
    before, after = _before_and_after(padding)
    span = _span(kernel, dilation)
    stride = _at_least(1, "stride", stride)
    padded = n + before + after
    if span > padded:
        raise ValueError(_too_large(n, before, after, kernel, dilation, span))
    return (padded - span) // stride + 1


def same_padding(n: int, kernel: int, stride: int = 1, dilation: int = 1) -> Pair:
    r"""The zeros before and after that make the output as large as the input, but for the stride.

    The output has :math:`n' = \lceil n/s \rceil` values.  That takes
    :math:`P = \max((n' - 1)s + d(k - 1) + 1 - n,\ 0)` zeros in all, of which
    :math:`\lfloor P/2 \rfloor` come before: an odd one is put after, as in TensorFlow and Keras.

    Args:
        n: Size of the input.
        kernel: Number :math:`k` of values in a window.
        stride: Distance :math:`s` from one window to the next.
        dilation: Distance :math:`d` between neighbouring values of a window.

    Returns:
        The numbers of zeros before and after.

    Raises:
        TypeError: An argument is not an integer.
        ValueError: An argument is not positive.

    Example:
        >>> same_padding(224, kernel=3, stride=2)
        (0, 1)
    """
    n = _at_least(1, "n", n)
    span = _span(kernel, dilation)
    stride = _at_least(1, "stride", stride)
    last_start = (n - 1) // stride * stride
    total = max(last_start + span - n, 0)
    return total // 2, total - total // 2


def paddings(
    size: Pair,
    kernel: int | Pair,
    stride: int | Pair = 1,
    padding: int | Pair | tuple[Pair, Pair] | str = 0,
    dilation: int | Pair = 1,
) -> tuple[Pair, Pair]:
    """The zeros on each side of an image, whichever way the padding is given.

    Args:
        size: Height and width of the image.
        kernel: One number, or one for each axis; likewise ``stride`` and ``dilation``.
        stride: As in :func:`output_size`.
        padding: One number; one for each axis, ``(vertical, horizontal)``; one for each side,
            ``((top, bottom), (left, right))``; ``"valid"``, none; or ``"same"``, see
            :func:`same_padding`.
        dilation: As in :func:`output_size`.

    Returns:
        The zeros ``((top, bottom), (left, right))``.

    Raises:
        TypeError: A number is not an integer.
        ValueError: The padding is of no such form, or a number is out of range.
    """
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding == "same":
        axes = zip(
            _pair("size", size),
            _pair("kernel", kernel),
            _pair("stride", stride),
            _pair("dilation", dilation),
            strict=True,
        )
        vertical, horizontal = (same_padding(n, k, s, d) for n, k, s, d in axes)
        return vertical, horizontal
    if isinstance(padding, str):
        raise ValueError(f"padding is {padding!r}, expected 'valid', 'same' or numbers of zeros")
    vertical, horizontal = _pair("padding", padding)
    return _before_and_after(vertical), _before_and_after(horizontal)


def output_shape(
    size: Pair,
    kernel: int | Pair,
    stride: int | Pair = 1,
    padding: int | Pair | tuple[Pair, Pair] | str = 0,
    dilation: int | Pair = 1,
) -> Pair:
    """Height and width of what a convolution or a pooling makes of an image.

    Args:
        size: Height and width of the image.
        kernel: One number, or one for each axis; likewise ``stride`` and ``dilation``.
        stride: As in :func:`output_size`.
        padding: As in :func:`output_size`, ``"valid"`` or ``"same"``; mind that a pair of numbers
            is ``(vertical, horizontal)``.
        dilation: As in :func:`output_size`.

    Returns:
        Height and width of the output.

    Raises:
        TypeError: A number is not an integer.
        ValueError: A number is out of range, or the window is larger than the padded image.

    Example:
        >>> output_shape((200, 200), kernel=5)
        (196, 196)
    """
    height, width = (
        output_size(*axis)
        for axis in zip(
            _pair("size", size),
            _pair("kernel", kernel),
            _pair("stride", stride),
            paddings(size, kernel, stride, padding, dilation),
            _pair("dilation", dilation),
            strict=True,
        )
    )
    return height, width


def parameter_count(
    kernel: int | Pair, in_channels: int, out_channels: int, groups: int = 1, bias: bool = True
) -> int:
    r"""The number of parameters of a convolution.

    With :math:`C` channels in, :math:`F` out and :math:`G` groups, each of the :math:`F` filters
    has :math:`K_1 K_2 C/G` weights, and a bias:
    :math:`N = K_1 K_2 \frac{C}{G} F + F`.

    Args:
        kernel: Height and width of the kernel, or one number for both.
        in_channels: Number :math:`C` of channels of the input.
        out_channels: Number :math:`F` of filters, the channels of the output.
        groups: Number :math:`G` of groups of channels that do not see each other; ``in_channels``
            for a depthwise convolution.
        bias: Whether every filter has a bias.

    Returns:
        The number of weights and biases.

    Raises:
        TypeError: A number is not an integer.
        ValueError: A number is not positive, or ``groups`` does not divide both channel counts.

    Example:
        >>> parameter_count(kernel=5, in_channels=3, out_channels=10)
        760
    """
    biases = out_channels if bias else 0
    return _weights(kernel, in_channels, out_channels, groups) + biases


def multiply_adds(
    output: Pair, kernel: int | Pair, in_channels: int, out_channels: int, groups: int = 1
) -> int:
    r"""The number of multiplications, each with an addition, that a convolution's definition takes.

    Every value of the output is a sum of :math:`K_1 K_2 C/G` products, so that for an output of
    :math:`n_1' \times n_2'` it is :math:`n_1' n_2' K_1 K_2 \frac{C}{G} F` for one image.
    Products with the zeros of the padding count, and the bias does not.

    Args:
        output: Height and width of the output, see :func:`output_shape`.
        kernel: Height and width of the kernel, or one number for both.
        in_channels: Number :math:`C` of channels of the input.
        out_channels: Number :math:`F` of filters.
        groups: Number :math:`G` of groups.

    Returns:
        The multiply-adds for one image.

    Raises:
        TypeError: A number is not an integer.
        ValueError: A number is not positive, or ``groups`` does not divide both channel counts.

    Example:
        >>> multiply_adds((196, 196), kernel=5, in_channels=3, out_channels=10)
        28812000
    """
    height, width = (_at_least(1, "output", n) for n in _pair("output", output))
    return height * width * _weights(kernel, in_channels, out_channels, groups)


class Window(NamedTuple):
    """What a layer puts on its input along one axis; ``padding`` as in :func:`output_size`."""

    kernel: int
    stride: int = 1
    dilation: int = 1
    padding: int | Pair = 0


class ReceptiveField(NamedTuple):
    """The values of the input that an output can depend on, along one axis.

    Output :math:`i` can depend on the ``size`` values that begin at ``start + jump * i``.  Where
    that is outside of the input, they are padding.
    """

    size: int = 1
    jump: int = 1
    start: int = 0

    def through(self, window: Window | tuple) -> ReceptiveField:
        """The receptive field one layer further on.

        A window spans :math:`d(k - 1) + 1` of this layer's outputs, which lie ``jump`` apart.
        """
        kernel, stride, dilation, padding = Window(*window)
        before, _ = _before_and_after(padding)
        return ReceptiveField(
            size=self.size + (_span(kernel, dilation) - 1) * self.jump,
            jump=self.jump * _at_least(1, "stride", stride),
            start=self.start - before * self.jump,
        )


def receptive_field(windows: Iterable[Window | tuple]) -> ReceptiveField:
    r"""The receptive field of a chain of convolutions and poolings, along one axis.

    .. math::

        r_l = r_{l-1} + (k_l - 1)\, d_l\, j_{l-1}, \qquad j_l = j_{l-1} s_l, \qquad
        r_0 = j_0 = 1

    An output depends on no value outside of it.  For convolutions of one channel whose first and
    last weights are not zero it is the smallest interval of which that is true; dilation may leave
    holes within.

    Args:
        windows: A :class:`Window` for each layer, or a tuple ``(kernel, stride, dilation,
            padding)``, of which only the first is needed.

    Returns:
        Size :math:`r`, jump :math:`j` and start.

    Raises:
        TypeError: A number is not an integer.
        ValueError: A number is out of range.

    Example:
        >>> receptive_field([(3,), (3,), (3,)])  # three 3x3 see what one 7x7 sees
        ReceptiveField(size=7, jump=1, start=0)
    """
    return reduce(ReceptiveField.through, windows, ReceptiveField())


def _span(kernel: int, dilation: int) -> int:
    return _at_least(1, "dilation", dilation) * (_at_least(1, "kernel", kernel) - 1) + 1


def _weights(kernel: int | Pair, in_channels: int, out_channels: int, groups: int) -> int:
    height, width = (_at_least(1, "kernel", k) for k in _pair("kernel", kernel))
    _at_least(1, "groups", groups)
    for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
        if _at_least(1, name, channels) % groups:
            raise ValueError(
                f"groups is {groups}, expected a divisor of {name}, {channels}; "
                "1 is no grouping, in_channels is a depthwise convolution"
            )
    return height * width * (in_channels // groups) * out_channels


def _at_least(least: int, name: str, value: int) -> int:
    """The argument as an integer.

    Raises:
        TypeError: It is not an integer.
        ValueError: It is less than ``least``.
    """
    # An int is not sent through operator.index: torch.compile hands on sizes that are symbols.
    if not isinstance(value, int):
        try:
            value = operator.index(value)
        except TypeError as error:
            raise TypeError(f"{name} is {value!r}, expected an integer") from error
    if isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}, expected an integer")
    if value < least:
        raise ValueError(f"{name} is {value}, expected an integer of at least {least}")
    return value


def _pair(name: str, value):
    """One value for each of two axes."""
    if not isinstance(value, (tuple, list)):
        return value, value
    if len(value) != 2:
        raise ValueError(f"{name} is {value!r}, expected one number or two, for height and width")
    return tuple(value)


def _before_and_after(padding: int | Pair) -> Pair:
    if isinstance(padding, (tuple, list)) and len(padding) != 2:
        raise ValueError(f"padding is {padding!r}, expected one number or (before, after)")
    before, after = _pair("padding", padding)
    return _at_least(0, "padding", before), _at_least(0, "padding", after)


def _too_large(n: int, before: int, after: int, kernel: int, dilation: int, span: int) -> str:
    spans = f" with dilation {dilation} spans {span} values and" if dilation > 1 else ""
    return (
        f"a kernel of size {kernel}{spans} does not fit into an input of size {n} "
        f"padded by {before} + {after}; take a smaller kernel, "
        f"or pad by {span - n - before - after} more"
    )
