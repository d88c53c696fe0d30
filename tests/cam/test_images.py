"""Normalising, enlarging, colouring and superimposing."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from companion.cam import CAM, colour, normalise, overlay, superimpose, upsample


def maps(count=2, h=4, w=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, h, w, generator=generator, dtype=torch.float64)


def test_normalise_divides_each_map_by_its_largest_magnitude():
    raw = torch.tensor([[[2.0, -4.0]], [[0.0, 0.0]], [[0.5, 0.25]]])
    expected = torch.tensor([[[0.5, -1.0]], [[0.0, 0.0]], [[1.0, 0.5]]])
    assert torch.equal(normalise(raw), expected)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e30])
def test_normalise_does_not_depend_on_the_scale(scale):
    """torchcam's epsilon leaves maps of small scores dark; here there is none."""
    raw = maps()
    torch.testing.assert_close(normalise(scale * raw), normalise(raw), rtol=1e-12, atol=0)


def test_upsample_interpolates_between_the_centres_of_the_cells():
    line = torch.tensor([[[0.0, 4.0]]], dtype=torch.float64)
    # Centres of the two cells at 1/4 and 3/4 of the width, of the eight pixels at 1/16, 3/16, ...
    centres = (torch.arange(8, dtype=torch.float64) + 0.5) / 8
    expected = ((centres - 0.25) / 0.5).clamp(0, 1) * 4
    torch.testing.assert_close(upsample(line, (1, 8))[0, 0], expected, rtol=1e-12, atol=1e-12)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 20), st.integers(1, 20), st.integers())
def test_upsample_keeps_range_and_constants_and_relu_before_it_is_never_smaller(h, w, H, W, seed):
    raw = maps(1, h, w, seed % 1000)
    large = upsample(raw, (H, W))
    assert large.shape == (1, H, W)
    assert raw.min() - 1e-12 <= large.min()
    assert large.max() <= raw.max() + 1e-12
    assert (upsample(raw.relu(), (H, W)) - large.relu()).min() >= -1e-12
    constant = torch.full_like(raw, 3.5)
    torch.testing.assert_close(upsample(constant, (H, W)), constant.new_full((1, H, W), 3.5))


@given(st.integers(1, 9), st.integers(1, 230))
def test_upsample_of_ones_is_ones_to_the_last_bit(h, H):
    """A heatmap in [0, 1] must stay there, or it has no colour."""
    assert torch.equal(upsample(torch.ones(1, h, h), (H, H)), torch.ones(1, H, H))


@pytest.mark.parametrize("bad", [float("inf"), float("nan"), -float("inf")])
def test_normalise_refuses_what_is_not_finite(bad):
    with pytest.raises(ValueError, match="maps: a value is infinite or not a number"):
        normalise(torch.tensor([[1.0, bad]]))


def test_a_heatmap_is_the_positive_part_then_large_then_divided_by_its_maximum():
    raw = torch.tensor([[[4.0, -4.0]], [[-1.0, -2.0]]])
    seen = CAM(raw, *[torch.empty(0)] * 5, layer="")
    assert seen.heatmap((1, 4)).tolist() == [[[1.0, 0.75, 0.25, 0.0]], [[0.0] * 4]]
    assert seen.heatmap((1, 1)).tolist() == [[[1.0]], [[0.0]]]


def test_upsample_takes_any_leading_dimensions():
    raw = maps(6).reshape(2, 3, 4, 5)
    torch.testing.assert_close(upsample(raw, (9, 7))[1, 2], upsample(raw[1, 2], (9, 7)))


def test_superimpose_is_a_convex_combination():
    image, colours = torch.rand(3, 4, 4), torch.rand(3, 4, 4)
    assert torch.equal(superimpose(image, colours, 0.0), image)
    assert torch.equal(superimpose(image, colours, 1.0), colours)
    torch.testing.assert_close(
        superimpose(image, colours, 0.25), image + 0.25 * (colours - image), rtol=1e-5, atol=1e-6
    )
    with pytest.raises(ValueError, match=r"opacity: expected a number in \[0, 1\], got 1.5"):
        superimpose(image, colours, 1.5)


def test_colours_are_matplotlibs():
    heatmap = torch.tensor([[0.0, 0.5, 1.0]])
    expected = matplotlib.colormaps["viridis"](np.array([0.0, 0.5, 1.0]))[:, :3]
    found = colour(heatmap, "viridis")
    assert found.shape == (3, 1, 3)
    np.testing.assert_allclose(found[:, 0].T.numpy(), expected, atol=1e-6)


def test_a_colormap_that_does_not_exist():
    with pytest.raises(ValueError, match="no colormap named 'rainbows'"):
        colour(torch.rand(2, 2), "rainbows")


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan")])
def test_colours_need_values_between_zero_and_one(bad):
    with pytest.raises(ValueError, match=r"heatmap: expected values in \[0, 1\]"):
        colour(torch.tensor([[0.5, bad]]))


def test_overlay_of_a_photograph_and_of_a_grey_image():
    photograph = torch.randint(0, 256, (3, 6, 8), dtype=torch.uint8)
    heatmap = torch.rand(6, 8)
    expected = 0.5 * photograph / 255 + 0.5 * colour(heatmap)
    torch.testing.assert_close(overlay(photograph, heatmap), expected)
    grey = torch.rand(2, 1, 6, 8)
    assert overlay(grey, torch.rand(2, 6, 8)).shape == (2, 3, 6, 8)


@pytest.mark.parametrize(
    ("image", "heatmap", "words"),
    [
        (torch.rand(3, 6, 8), torch.rand(7, 7), r"its size \(7, 7\) is not the image's \(6, 8\)"),
        (torch.rand(6, 8), torch.rand(6, 8), "1 or 3 channels"),
        (torch.rand(4, 6, 8), torch.rand(6, 8), "1 or 3 channels"),
        (torch.randn(3, 6, 8) - 3, torch.rand(6, 8), "before it was standardised"),
    ],
)
def test_overlay_refuses_what_does_not_fit(image, heatmap, words):
    with pytest.raises(ValueError, match=words):
        overlay(image, heatmap)
