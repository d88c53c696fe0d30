"""The figures of a photograph and its heatmap."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from companion.cam import overlay
from companion.figures.heatmaps import draw_explanation, draw_image


@pytest.fixture(autouse=True)
def _closed():
    with plt.rc_context({"backend": "agg"}):
        yield
        plt.close("all")


@pytest.mark.parametrize(
    ("image", "white"),
    [
        (torch.full((1, 4, 5), 51, dtype=torch.uint8), 255),
        (torch.full((4, 5), 0.2), 1.0),
    ],
)
def test_greys_are_not_stretched(image, white):
    axes = plt.figure().subplots()
    draw_image(axes, image)
    (shown,) = axes.get_images()
    assert shown.get_array().shape == (4, 5)
    assert shown.get_clim() == (0, white)


def test_a_figure_of_the_image_and_the_overlay():
    image, heatmap = torch.randint(0, 256, (3, 6, 8), dtype=torch.uint8), torch.rand(6, 8)
    drawing = draw_explanation(image, heatmap, "Dimension 3", cmap="viridis", opacity=0.25)
    left, right = drawing.axes
    np.testing.assert_array_equal(left.get_images()[0].get_array(), image.movedim(0, -1))
    expected = overlay(image, heatmap, cmap="viridis", opacity=0.25).movedim(0, -1)
    np.testing.assert_allclose(right.get_images()[0].get_array(), expected)
    assert (left.get_title(), right.get_title()) == ("Original image", "Dimension 3")
