"""Where the windows of a pooling lie along one axis: integer arithmetic, no tensors."""

from __future__ import annotations

Pair = int | tuple[int, int]


def pair(value: Pair) -> tuple[int, int]:
    """One number for both axes, or one for each."""
    if not isinstance(value, tuple | list):
        return value, value
    rows, columns = value
    return rows, columns


def window_count(
    size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool
) -> int:
    r"""The number of windows along an axis of ``size`` pixels.

    With :math:`r = n + 2p - d(k-1) - 1`, the room to move, it is :math:`\lfloor r/s \rfloor + 1`;
    with ``ceil_mode`` :math:`\lceil r/s \rceil + 1`, less one where the last window would begin
    beyond the image and its left padding (PyTorch's rule).  It is below 1 where no window fits.
    """
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return room // stride + 1
    count = -(-room // stride) + 1
    return count - 1 if (count - 1) * stride >= size + padding else count


def check_windows(
    name: object,
    size: tuple[int, int],
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair = 1,
    ceil_mode: bool = False,
) -> None:
    """Raise a ValueError that says why these windows cannot be laid on an image of that size.

    Args:
        name: what opens the message: a layer, or the name of a function.
        size: height and width of the image; the other arguments are those of the pooling layer.
    """
    axes = zip(
        ("height", "width"),
        size,
        *map(pair, (kernel, stride, padding, dilation)),
        strict=True,
    )
    for axis, n, k, s, p, d in axes:
        for argument, value in (("kernel_size", k), ("stride", s), ("dilation", d)):
            if value < 1:
                raise ValueError(f"{name}: expected {argument} of at least 1, got {value}")
        if not 0 <= p <= k // 2:
            raise ValueError(
                f"{name}: expected padding of at most half the kernel_size {k}, "
                f"so between 0 and {k // 2}, got {p} in {axis}"
            )
        if window_count(n, k, s, p, d, ceil_mode) < 1:
            raise ValueError(
                f"{name}: the window is larger than the padded image: {d * (k - 1) + 1} against "
                f"{n} + 2·{p} = {n + 2 * p} pixels in {axis}; give the network a larger image, "
                "or leave out a pooling layer or a stride before this one"
            )
        # Here torch would return -inf, and its backward pass write beyond the end of the image.
        if any(start % d >= n for start in range(-p, 0, s)):
            raise ValueError(
                f"{name}: dilation {d} and padding {p} make a window that sees nothing but "
                f"padding of the {n} pixels in {axis}; lower the dilation or the padding"
            )


def check_divisor(name: object, divisor: int | None) -> None:
    """Raise a ValueError for an average divided by 0."""
    if divisor == 0:
        raise ValueError(f"{name}: expected a divisor_override other than 0, or None, got 0")


def check_output_size(name: object, output_size: Pair | tuple[int | None, int | None]) -> None:
    """Raise a ValueError for an adaptive pooling to less than one pixel."""
    if any(count is not None and count < 1 for count in pair(output_size)):
        raise ValueError(
            f"{name}: expected output_size of at least 1 in height and width "
            f"(None keeps the input's), got {output_size}"
        )


def tiled(size: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> list[range]:
    """The windows of an average pooling along one axis; they may reach into the padding.

    With ``ceil_mode`` the last one may reach further; it is cut off where the padding ends.
    """
    count = window_count(size, kernel, stride, padding, 1, ceil_mode)
    starts = range(-padding, count * stride - padding, stride)
    return [range(start, min(start + kernel, size + padding)) for start in starts]


def adaptive(size: int, count: int) -> list[range]:
    r"""``count`` windows that cover ``size`` pixels as evenly as whole pixels allow.

    Window i is :math:`[\lfloor i n/m \rfloor, \lceil (i+1) n/m \rceil)`; neighbours share a pixel
    where m does not divide i n.
    """
    return [range(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


def clipped(windows: list[range], size: int) -> list[range]:
    """The part of each window that lies on the image."""
    return [range(max(w.start, 0), min(w.stop, size)) for w in windows]


def dual(windows: list[range], size: int) -> list[range]:
    """For each pixel the windows that contain it: an interval too, since the windows are in order.

    It is what makes the adjoint of a sum over windows a sum over windows.

    Args:
        windows: windows on the image, in order: neither their starts nor their stops decrease.
        size: the number of pixels.
    """
    result = []
    first = last = 0  # windows first, ..., last - 1 contain the pixel
    for pixel in range(size):
        while first < len(windows) and windows[first].stop <= pixel:
            first += 1
        while last < len(windows) and windows[last].start <= pixel:
            last += 1
        result.append(range(first, last))
    return result
