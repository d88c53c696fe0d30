"""Scenes of two digits among fragments of others, with the boxes of the digits."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from companion.data.digits import Digits, digits
from companion.data.uniform import uniform

CLASSES = 10
#: Pixels a side: of the canvas, of a digit's cell, of a fragment.
CANVAS, CELL, PIECE = 64, 28, 8
#: Fragments in a scene.
PIECES = 8
#: MNIST draws digits in the 20 x 20 pixels about the middle of the cell; fragments are cut there.
MARGIN = 4


@dataclass(frozen=True, eq=False)
class Scenes:
    """Scenes, which two digits are in them, and where.

    Attributes:
        images: (N, 1, 64, 64), float32 from 0 (paper) to 1 (ink).
        labels: (N, 2), int64 from 0 to 9: the classes of the two digits, in no particular order.
        boxes: (N, 2, 4), int64: the tight box (left, top, right, bottom) of the ink of each of the
            two.  Columns are counted from the left and rows from the top, from 0; right and bottom
            are the first that are not in the box, so that the digit's pixels are
            ``image[:, top:bottom, left:right]`` and the area is (right - left)(bottom - top).
    """

    images: Tensor
    labels: Tensor
    boxes: Tensor

    def __repr__(self) -> str:
        shapes = (
            f"{field.name}={tuple(getattr(self, field.name).shape)}" for field in fields(self)
        )
        return f"Scenes({', '.join(shapes)})"

    @property
    def targets(self) -> Tensor:
        """Shape (N, 10), float32; 1 for the two classes that are in the scene, 0 for the others."""
        return torch.zeros(len(self.labels), CLASSES).scatter_(1, self.labels, 1.0)


def scenes(count: int, seed: int = 0, source: Digits | None = None) -> Scenes:
    """Scenes of 64 x 64 pixels to find digits in, made at random.

    In each there are two digits of different classes, and eight fragments of 8 x 8 pixels, cut
    from digits of other classes than these two.  The cells of 28 x 28 pixels in which the two
    digits come do not overlap, and all pairs of places where they do not are equally likely.  No
    fragment reaches into these cells: the box of a digit holds this digit and nothing else.

    Args:
        count: of scenes.
        seed: the same seed gives the same scenes on every machine; more scenes begin with the same.
        source: where digits and fragments are from; all of :func:`digits` when not given.  Take the
            two parts of :meth:`Digits.split` for scenes to train with and scenes to test with.

    Raises:
        TypeError, ValueError: ``count`` is no positive integer, or ``seed`` none from 0 to
            2**32 - 1; ``source`` has images of another size than 28 x 28, an image without ink, a
            label that is not from 0 to 9, or fewer than three classes.

    Example:
        >>> train, held_out = digits().split()
        >>> scenes(200, seed=1, source=held_out)
        Scenes(images=(200, 1, 64, 64), labels=(200, 2), boxes=(200, 2, 4))
    """
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"count must be an integer, got {count!r}")
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    source = digits() if source is None else source
    classes = _by_class(source)
    pixels = source.images[:, 0].cpu().numpy()
    # A row for every scene, so that a scene depends on the seed and on its number only.
    luck = iter(uniform(seed, count, 5 + 5 * PIECES).T)

    pair = _two_classes(len(classes), next(luck), next(luck))
    shown = np.stack([_members(classes, pair[:, i], next(luck)) for i in range(2)], 1)
    places = _disjoint_places()
    corners = places[_choose(len(places), next(luck))]
    canvas = np.zeros((count, CANVAS, CANVAS), np.float32)
    for i in range(2):
        _paint(canvas, pixels[shown[:, i]], corners[:, i])

    others = _other_classes(len(classes), pair)
    free = _free_places(corners)
    every = np.arange(count)
    for _ in range(PIECES):
        kind = others[every, _choose(others.shape[1], next(luck))]
        digit = pixels[_members(classes, kind, next(luck))]
        cut = [MARGIN + _choose(CELL - 2 * MARGIN - PIECE + 1, next(luck)) for _ in range(2)]
        piece = digit[_window(np.stack(cut, 1), PIECE)]
        _paint(canvas, piece, _free_place(free, next(luck)))

    boxes = _ink_boxes(pixels)[shown] + np.tile(corners[:, :, ::-1], 2)
    return Scenes(
        torch.from_numpy(canvas)[:, None],
        source.labels.cpu()[torch.from_numpy(shown)],
        torch.from_numpy(boxes),
    )


def _by_class(source: Digits) -> list[np.ndarray]:
    """For every class that there is, the indices of its images."""
    labels = source.labels.cpu().numpy()
    if source.images.shape[2:] != (CELL, CELL):
        size = tuple(source.images.shape[2:])
        raise ValueError(f"the images of source must be {CELL} x {CELL} pixels, got {size}")
    kinds = np.unique(labels)
    if not np.isin(kinds, range(CLASSES)).all():
        raise ValueError(f"the labels of source must be from 0 to 9, got {kinds.tolist()}")
    if len(kinds) < 3:
        raise ValueError(
            "source must have digits of at least three classes, two for the digits and one for "
            f"the fragments, got {kinds.tolist()}"
        )
    return [np.flatnonzero(labels == kind) for kind in kinds]


def _choose(count: int | np.ndarray, luck: np.ndarray) -> np.ndarray:
    """Integers from 0 to count - 1, equally likely, of uniform numbers in [0, 1)."""
    return (luck * count).astype(np.int64)


def _two_classes(count: int, luck1: np.ndarray, luck2: np.ndarray) -> np.ndarray:
    """Two different classes for each scene, shape (N, 2)."""
    first = _choose(count, luck1)
    second = (first + 1 + _choose(count - 1, luck2)) % count
    return np.stack([first, second], 1)


def _other_classes(count: int, pair: np.ndarray) -> np.ndarray:
    """The classes that are not in the pair, shape (N, count - 2)."""
    every = np.broadcast_to(np.arange(count), (len(pair), count))
    other = (every != pair[:, :1]) & (every != pair[:, 1:])
    return every[other].reshape(len(pair), count - 2)


def _members(classes: list[np.ndarray], kind: np.ndarray, luck: np.ndarray) -> np.ndarray:
    """The index of an image of each of the classes."""
    sizes = np.array([len(indices) for indices in classes])
    starts = np.cumsum(sizes) - sizes
    return np.concatenate(classes)[starts[kind] + _choose(sizes[kind], luck)]


def _disjoint_places() -> np.ndarray:
    """All (row, column) of two cells that are in the canvas and do not overlap, (P, 2, 2)."""
    place = np.arange(CANVAS - CELL + 1)
    apart = abs(place[:, None] - place) >= CELL
    # Apart in rows or in columns; axes: row and column of the one, row and column of the other.
    return np.argwhere(apart[:, None, :, None] | apart[None, :, None, :]).reshape(-1, 2, 2)


def _free_places(corners: np.ndarray) -> np.ndarray:
    """Where a fragment touches neither cell, shape (N, places, places)."""
    place = np.arange(CANVAS - PIECE + 1)
    # Per scene, cell, axis and place: the fragment shares a row, or a column, with the cell.
    shares = (corners[..., None] - PIECE < place) & (place < corners[..., None] + CELL)
    covered = shares[:, :, 0, :, None] & shares[:, :, 1, None, :]
    return ~covered.any(1)


def _free_place(free: np.ndarray, luck: np.ndarray) -> np.ndarray:
    """The (row, column) of one of the free places in each scene, equally likely, (N, 2)."""
    in_row = free.sum(2)
    row, number = _find(in_row, _choose(in_row.sum(1), luck))
    column, _ = _find(free[np.arange(len(free)), row], number)
    return np.stack([row, column], 1)


def _find(counts: np.ndarray, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """In which bin thing ``number`` is, and its number there, when all are numbered bin by bin."""
    end = counts.cumsum(1)
    chosen = (end <= number[:, None]).sum(1)
    before = np.where(chosen > 0, end[np.arange(len(end)), chosen - 1], 0)
    return chosen, number - before


def _window(corners: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The index of a square of one image each, with its upper left corner at (row, column)."""
    step = np.arange(side)
    rows, columns = (corners[:, axis, None] + step for axis in range(2))
    return np.arange(len(corners))[:, None, None], rows[:, :, None], columns[:, None, :]


def _paint(canvas: np.ndarray, ink: np.ndarray, corners: np.ndarray) -> None:
    """Put a square into each canvas; the darker ink stays."""
    window = _window(corners, ink.shape[-1])
    canvas[window] = np.maximum(canvas[window], ink)


def _ink_boxes(pixels: np.ndarray) -> np.ndarray:
    """The tight boxes (left, top, right, bottom) of the ink of images, shape (N, 4)."""
    if not (pixels > 0).any((1, 2)).all():
        raise ValueError("source has an image without ink, which no box can hold: leave it out")
    sides = []
    for axis in (1, 2):
        inked = (pixels > 0).any(axis)
        sides.append((inked.argmax(1), inked.shape[1] - inked[:, ::-1].argmax(1)))
    (left, right), (top, bottom) = sides
    return np.stack([left, top, right, bottom], 1)
