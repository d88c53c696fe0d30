"""Banks of filters and confusion matrices: every number in its place, on one scale."""

import math

import matplotlib
import pytest
import torch

matplotlib.use("agg")

import matplotlib.pyplot as plt

from companion.figures.filters import INK, SIGNED, draw_bank, draw_confusion, tile


@pytest.fixture
def ax():
    fig, ax = plt.subplots()
    yield ax
    plt.close(fig)


@pytest.mark.parametrize(
    ("count", "columns", "rows", "across"),
    [(1, None, 1, 1), (5, None, 2, 3), (9, None, 3, 3), (5, 4, 2, 4), (3, 3, 1, 3), (3, 1, 3, 1)],
)
def test_every_image_has_its_place(count, columns, rows, across):
    images = torch.arange(count * 2 * 3.0).reshape(count, 2, 3)
    whole = tile(images, columns)
    assert whole.shape == (rows * 3 - 1, across * 4 - 1)
    assert not tile(images.clone().requires_grad_(), columns).requires_grad
    for n, image in enumerate(images):
        top, left = n // across * 3, n % across * 4
        assert whole[top : top + 2, left : left + 3].equal(image)
    assert int(whole.isnan().logical_not().sum()) == images.numel()


@pytest.mark.parametrize("shape", [(3, 2), (4, 1, 3, 3), (0, 3, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"images has shape .*expected \(N, h, w\)"):
        tile(torch.zeros(shape))


def test_filters_have_zero_in_the_middle(ax):
    filters = torch.tensor([[[0.0, -3.0]], [[1.0, 2.0]]], requires_grad=True)
    drawn = draw_bank(ax, filters, columns=1)
    assert drawn.get_clim() == (-3.0, 3.0)
    assert drawn.get_cmap() == SIGNED
    assert SIGNED(0.5)[:3] == pytest.approx((1, 1, 1), abs=0.01)
    assert drawn.get_array().shape == (3, 2)


def test_maps_are_ink_on_paper(ax):
    drawn = draw_bank(ax, torch.tensor([[[0.0, 0.25]], [[0.5, 0.0]]]))
    assert drawn.get_clim() == (0.0, 0.5)
    assert drawn.get_cmap() == INK
    assert sum(INK(0.0)[:3]) == 3 > sum(INK(0.5)[:3]) > sum(INK(1.0)[:3]) == 0


def test_a_bank_of_zeros(ax):
    low, high = draw_bank(ax, torch.zeros(2, 2, 2)).get_clim()
    assert low == 0 < high


def test_confusion(ax):
    counts = torch.tensor([[90, 0, 2], [1, 80, 0], [0, 5, 70]])
    draw_confusion(ax, counts, names="abc")
    written = {text.get_position(): text.get_text() for text in ax.texts}
    assert written == {
        (j, i): str(int(counts[i, j])) for i in range(3) for j in range(3) if counts[i, j]
    }
    (image,) = ax.images
    assert image.get_array().tolist() == [[0, 0, 2], [1, 0, 0], [0, 5, 0]]
    assert image.get_clim() == (0, 5)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b", "c"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "c"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("answer", "truth")


def test_confusion_without_mistakes(ax):
    draw_confusion(ax, 7 * torch.eye(2, dtype=torch.int64))
    assert [text.get_text() for text in ax.texts] == ["7", "7"]
    assert not ax.images[0].get_array().any()
    assert math.isfinite(ax.images[0].get_clim()[1])
