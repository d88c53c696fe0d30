"""What is explained: a class by index or name, the strongest classes, or any score."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

Score = Callable[[Any], Tensor]
Class = int | str


@dataclass(frozen=True)
class Top:
    """The ``k`` classes with the largest scores, for each image its own.

    Raises:
        TypeError: ``k`` is no integer.
        ValueError: ``k`` is not positive.
    """

    k: int

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or isinstance(self.k, bool):
            raise TypeError(f"Top: expected a number of classes, got {type(self.k).__name__}")
        if self.k < 1:
            raise ValueError(f"Top: expected at least one class, got k = {self.k}")


Targets = None | Class | Top | Score | Tensor | Sequence[Class] | Sequence[Sequence[Class]]


@dataclass(frozen=True)
class Asked:
    """The scores asked for: ``K`` to an image.

    Attributes:
        classes: Shape ``(N, K)``; ``None`` where the score is a function.
        score: The function, where it is one.
        several: Whether the caller asked for a list of classes per image.
    """

    classes: Tensor | None
    score: Score | None
    several: bool

    @property
    def count(self) -> int:
        """How many scores there are to an image."""
        return 1 if self.classes is None else self.classes.shape[1]

    @property
    def target(self) -> Tensor | None:
        """The classes as the caller asked: shape ``(N, K)``, or ``(N,)`` for one to an image."""
        return self.classes if self.several or self.classes is None else self.classes[:, 0]

    def together(self, parts: Sequence[Tensor]) -> Tensor:
        """One tensor of K, one to a score, with K after N where the caller asked for several."""
        return torch.stack(list(parts), dim=1) if self.several else parts[0]

    def scores(self, output: Any, count: int) -> list[Tensor]:
        """All K scores of N = ``count`` images, each of shape ``(N,)``."""
        device = None if self.classes is None else self.classes.device
        rows = torch.arange(count, device=device)
        return [self.of(output, rows, which) for which in range(self.count)]

    def of(self, output: Any, image: Tensor, which: int) -> Tensor:
        """The scores that were asked for number ``which``.

        Args:
            output: What the model returned for a batch of R rows.
            image: To which of the N images each row belongs, shape ``(R,)``.
            which: Between 0 and K - 1.

        Returns:
            Shape ``(R,)``.
        """
        if self.score is not None:
            return _checked_score(self.score(output), len(image))
        return output.gather(1, self.classes[image, which][:, None])[:, 0]


def ask(targets: Targets, output: Any, count: int, names: Sequence[str] | None) -> Asked:
    """What ``targets`` means for this output.

    Args:
        targets: As :class:`companion.cam.GradCAM` documents.
        output: What the model returned.
        count: Number of images, N.
        names: Names of the classes, where they are known.

    Raises:
        TypeError: ``targets`` is of no known kind, or the output is not a tensor of logits and
            no function says which score of it is meant.
        ValueError: A class that does not exist, or not one target to an image.
    """
    if callable(targets):
        return Asked(None, targets, several=False)
    logits = _logits(output, count)
    if targets is None:
        return Asked(logits.detach().argmax(1, keepdim=True), None, several=False)
    if isinstance(targets, Top):
        if targets.k > logits.shape[1]:
            raise ValueError(
                f"targets: asked for the top {targets.k}, the model has {logits.shape[1]} classes"
            )
        return Asked(logits.detach().topk(targets.k, dim=1).indices, None, several=True)
    return _named(targets, logits, names)


def require_names(names: Sequence[str] | None) -> tuple[str, ...] | None:
    """The names of the classes, in a tuple.

    Raises:
        TypeError: They are no sequence of strings.
    """
    if names is None:
        return None
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError("names: expected a sequence of the classes' names, in the classes' order")
    return tuple(names)


def _named(targets: Any, logits: Tensor, names: Sequence[str] | None) -> Asked:
    count, classes = logits.shape
    targets = _plain(targets)
    if isinstance(targets, int | str):
        targets = [targets] * count
    if not isinstance(targets, Sequence):
        raise TypeError(
            "targets: expected a class index or name, one for each image, a list of them for each "
            "image, Top(k), a function of the model's output, or None; got "
            f"{type(targets).__name__}"
        )
    if len(targets) != count:
        cure = f"; several classes of one image are {[list(targets)]!r}" if count == 1 else ""
        raise ValueError(f"targets: got {len(targets)} for {count} images{cure}")
    targets = [_plain(one) for one in targets]
    several = any(isinstance(one, list | tuple) for one in targets)
    rows = [_row(one) if several else [one] for one in targets]
    if len({len(row) for row in rows}) > 1 or not rows[0]:
        raise ValueError("targets: expected the same number of classes, at least one, per image")
    indices = [[_index(one, classes, names) for one in row] for row in rows]
    return Asked(torch.tensor(indices, device=logits.device), None, several)


def _plain(targets: Any) -> Any:
    """Tensors, and the arrays and numbers of NumPy, as lists and numbers of Python."""
    return targets.tolist() if hasattr(targets, "tolist") else targets


def _row(targets: Any) -> list:
    if not isinstance(targets, list | tuple):
        raise ValueError(f"targets: expected a list of classes for every image, got {targets!r}")
    return [_plain(one) for one in targets]


def _index(target: Any, classes: int, names: Sequence[str] | None) -> int:
    if isinstance(target, str):
        return _index_of_name(target, classes, names)
    if not isinstance(target, int) or isinstance(target, bool):
        raise TypeError(f"targets: expected a class index or name, got {target!r}")
    if not 0 <= target < classes:
        raise ValueError(
            f"targets: class {target} does not exist; the model has {classes} classes, "
            f"0 to {classes - 1}"
        )
    return target


def _index_of_name(target: str, classes: int, names: Sequence[str] | None) -> int:
    if names is None:
        raise ValueError(
            f"targets: got the name {target!r}, but the classes' names are not known; "
            "give GradCAM(..., names=...), or an index"
        )
    if len(names) != classes:
        raise ValueError(f"names: got {len(names)} names, the model has {classes} classes")
    found = [index for index, name in enumerate(names) if name == target]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"targets: {target!r} names the classes {found}; give an index")
    close = get_close_matches(target, names, n=5, cutoff=0.6)
    hint = f"; did you mean {', '.join(map(repr, close))}?" if close else ""
    raise ValueError(f"targets: no class is named {target!r}{hint}")


def _logits(output: Any, count: int) -> Tensor:
    if not isinstance(output, Tensor):
        raise TypeError(
            f"the model returned {type(output).__name__}, expected a tensor of logits of shape "
            "(N, classes); say which score is meant: targets=lambda output: output[0][:, 3]"
        )
    if output.ndim != 2 or len(output) != count:
        raise ValueError(
            f"the model returned shape {tuple(output.shape)} for {count} images, expected logits "
            "of shape (N, classes); say which score is meant: targets=lambda output: ..."
        )
    if _are_probabilities(output.detach()):
        warnings.warn(
            "the model's output looks like probabilities (every row sums to one): their gradient "
            "vanishes where the model is sure, and the map with it; explain logits, the values "
            "before the softmax",
            UserWarning,
            stacklevel=4,
        )
    return output


def _are_probabilities(values: Tensor) -> bool:
    sums = values.float().sum(1)
    near_one = torch.isclose(sums, torch.ones_like(sums), atol=1e-3).all()
    return values.shape[1] > 1 and bool((values >= 0).all() & near_one)


def _checked_score(score: Any, rows: int) -> Tensor:
    if not isinstance(score, Tensor) or score.shape != (rows,) or not score.is_floating_point():
        came = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
        raise ValueError(
            f"targets: the function returned {came}, expected one floating-point score per image, "
            f"shape ({rows},)"
        )
    return score
