"""The metrics on heatmaps whose scores are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from companion.cam.metrics import (
    average_drop,
    cascade,
    completeness_defect,
    deletion,
    energy,
    insertion,
    inside,
    intersection_over_union,
    mean,
    pointing_game,
    proportion,
    rank_correlation,
)

BOX = torch.tensor([[2, 1, 5, 3]])  # columns 2 to 4, rows 1 and 2, of 4 x 6


def test_a_box_is_half_open():
    mask = inside(BOX, (4, 6))[0]
    assert mask.sum() == 6
    assert mask[1:3, 2:5].all()


@pytest.mark.parametrize(
    "box", [[0, 0, 3, 0], [1, 2, 3, 1], [0, 0, 3, 5], [-1, 0, 3, 2], [0, 0, 7, 2]]
)
def test_boxes_that_are_none(box):
    with pytest.raises(ValueError, match="is not a box"):
        inside(torch.tensor([box]), (4, 6))


def test_the_pointing_game():
    heatmaps = torch.zeros(4, 4, 6)
    heatmaps[0, 2, 4] = 1  # in the last row and column of the box
    heatmaps[1, 3, 4] = 1  # just below it
    heatmaps[2, 0, 0] = heatmaps[2, 1, 2] = 1  # two maxima: the first in reading order is outside
    hits = pointing_game(heatmaps, BOX.expand(4, 4))
    assert hits.tolist() == [True, False, False, False]


def test_a_heatmap_of_zeros_misses_even_a_box_that_holds_the_first_pixel():
    whole = torch.tensor([[0, 0, 6, 4]])
    assert not pointing_game(torch.zeros(1, 4, 6), whole)
    assert energy(torch.zeros(1, 4, 6), whole).tolist() == [0.0]
    assert intersection_over_union(torch.zeros(1, 4, 6), whole).tolist() == [0.0]


def test_energy_is_the_share_in_the_box():
    assert energy(torch.ones(1, 4, 6), BOX).item() == pytest.approx(6 / 24)
    heatmap = torch.zeros(1, 4, 6)
    heatmap[0, 1, 2], heatmap[0, 0, 0] = 3.0, 1.0
    assert energy(heatmap, BOX).item() == 0.75


def test_energy_in_half_precision_does_not_overflow():
    bright = torch.full((1, 300, 300), 60000.0, dtype=torch.float16)
    share = energy(bright, torch.tensor([[0, 0, 150, 300]]))
    assert share.item() == pytest.approx(0.5, rel=1e-6)
    assert share.dtype == torch.float32
    assert energy(torch.ones(1, 4, 6, dtype=torch.uint8), BOX).item() == 6 / 24


def test_a_uniform_heatmap_hits_at_chance():
    generator = torch.Generator().manual_seed(0)
    heatmaps = torch.rand(4000, 4, 6, generator=generator)
    low, high = proportion(pointing_game(heatmaps, BOX.expand(4000, 4)))[1:]
    assert low < 6 / 24 < high


def test_intersection_over_union():
    heatmap = torch.zeros(1, 4, 6)
    heatmap[0, 1:3, 3:6] = 1.0  # six pixels, four of them in the box
    heatmap[0, 0, 0] = 0.4
    assert intersection_over_union(heatmap, BOX).item() == pytest.approx(4 / 8)
    assert intersection_over_union(heatmap, BOX, 0.3).item() == pytest.approx(4 / 9)
    heatmap[0, 0, 0] = 0.5
    assert intersection_over_union(heatmap, BOX, 0.5).item() == pytest.approx(4 / 8)
    with pytest.raises(ValueError, match="threshold"):
        intersection_over_union(heatmap, BOX, 1.0)


@pytest.mark.parametrize(
    ("heatmaps", "boxes", "words"),
    [
        (torch.zeros(4, 6), BOX, r"expected shape \(N, H, W\)"),
        (torch.zeros(2, 4, 6), BOX, "got 1 for 2 heatmaps"),
        (torch.zeros(1, 4, 6), BOX.float(), "integers"),
        (torch.zeros(1, 4, 6), BOX[0], r"integers of shape \(N, 4\)"),
        (torch.full((1, 4, 6), math.inf), BOX, "no infinity"),
        (-torch.ones(1, 4, 6), BOX, "no negative values"),
        (torch.full((1, 4, 6), math.nan), BOX, "no NaN"),
    ],
)
def test_what_localisation_refuses(heatmaps, boxes, words):
    for metric in (pointing_game, energy, intersection_over_union):
        with pytest.raises(ValueError, match=words):
            metric(heatmaps, boxes)


def share(images):
    """A "probability" that is the mean of the pixels: deletion and insertion in closed form."""
    return images.mean(dim=(1, 2, 3))


def test_deletion_and_insertion_of_a_linear_score_in_closed_form():
    image = torch.zeros(1, 1, 2, 2)
    image[0, 0] = torch.tensor([[4.0, 2.0], [1.0, 1.0]])
    best = image[:, 0]
    # Left after 0..4 of the brightest: 8, 4, 2, 1, 0 quarters; the trapezoid with dx = 1/4.
    assert deletion(share, image, best, steps=4).item() == pytest.approx((4 + 4 + 2 + 1) / 16)
    assert insertion(share, image, best, steps=4).item() == pytest.approx((4 + 6 + 7 + 4) / 16)
    worst = -best
    assert deletion(share, image, worst, steps=4).item() == pytest.approx((4 + 7 + 6 + 4) / 16)


def test_a_baseline_and_ties_in_reading_order():
    image = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    flat = torch.zeros(1, 2, 2)
    assert insertion(share, image, flat, steps=4).item() == pytest.approx(3.5 / 16)
    whole = torch.ones(1, 1, 2, 2)  # 0, 1, 2 and 4 of the pixels after 0, 1, 2 and 3 steps
    assert insertion(share, whole, flat, steps=3).item() == pytest.approx(
        (1 / 4 + 2 / 4 + 1 / 2) / 3
    )
    grey = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64)
    assert deletion(share, image, flat, baseline=grey, steps=1).dtype == torch.float32
    assert deletion(share, image, flat, baseline=grey, steps=1).item() == pytest.approx(0.375)
    with pytest.raises(ValueError, match="steps"):
        deletion(share, image, flat, steps=0)
    with pytest.raises(ValueError, match="heatmaps: expected shape"):
        deletion(share, image, torch.zeros(1, 3, 2))


def test_average_drop():
    images = torch.ones(3, 1, 2, 2)
    heatmaps = torch.stack([torch.ones(2, 2), torch.full((2, 2), 0.25), torch.zeros(2, 2)])
    assert average_drop(share, images, heatmaps).tolist() == [0.0, 0.75, 1.0]
    assert average_drop(lambda x: -share(x) + 1, images, heatmaps).tolist() == [0.0, 0.0, 0.0]


def test_a_probability_is_one_number_to_an_image():
    """A model's own output would give one area to a class, without a word."""
    images, heatmaps = torch.rand(3, 1, 2, 2), torch.rand(3, 2, 2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 5))
    for metric in (deletion, insertion, average_drop):
        with pytest.raises(ValueError, match="probability: expected one value for each of 3"):
            metric(model, images, heatmaps)
        area = metric(lambda x: model(x).softmax(1)[:, 3], images, heatmaps)
        assert area.shape == (3,)
        assert not area.requires_grad


@pytest.mark.parametrize(
    ("heatmaps", "words"),
    [
        (torch.rand(1, 2, 2), r"expected shape \(3, 2, 2\)"),
        (torch.rand(3, 1, 2), r"expected shape \(3, 2, 2\)"),
        (torch.full((3, 2, 2), math.nan), "no NaN"),
    ],
)
def test_heatmaps_that_do_not_fit_the_images(heatmaps, words):
    for metric in (deletion, insertion, average_drop):
        with pytest.raises(ValueError, match=words):
            metric(share, torch.rand(3, 1, 2, 2), heatmaps)


def test_an_average_drop_needs_heatmaps_between_zero_and_one():
    with pytest.raises(ValueError, match=r"values in \[0, 1\]"):
        average_drop(share, torch.rand(3, 1, 2, 2), torch.full((3, 2, 2), 1.5))


def test_rank_correlation_is_scipys_with_ties():
    generator = torch.Generator().manual_seed(3)
    first = torch.randint(0, 6, (4, 5, 6), generator=generator).float()
    second = torch.randn(4, 5, 6, generator=generator) + 0.3 * first
    expected = [
        stats.spearmanr(x.flatten(), y.flatten()).statistic
        for x, y in zip(first.numpy(), second.numpy(), strict=True)
    ]
    np.testing.assert_allclose(rank_correlation(first, second), expected, rtol=1e-12)
    assert rank_correlation(first, torch.zeros_like(first)).isnan().all()
    with pytest.raises(ValueError, match="second: expected shape"):
        rank_correlation(first, second[:2])
    with pytest.raises(ValueError, match=r"first: expected shape \(N, h, w\)"):
        rank_correlation(first[0], second[0])
    with pytest.raises(ValueError, match="no NaN"):
        rank_correlation(first, second * math.nan)


def test_the_cascade_draws_one_more_layer_each_time():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.BatchNorm2d(2), nn.Linear(2, 2))
    with torch.no_grad():
        model[2].weight.fill_(3.0)
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    steps = list(cascade(model, seed=1))
    assert [name for name, _ in steps] == ["3", "2", "0"]
    changed = [
        {key.split(".")[0] for key, v in copy.state_dict().items() if not torch.equal(v, kept[key])}
        for _, copy in steps
    ]
    assert changed == [{"3"}, {"3", "2"}, {"3", "2", "0"}]
    for key, value in model.state_dict().items():
        assert torch.equal(value, kept[key])
    assert torch.equal(torch.random.get_rng_state(), state)
    again = dict(cascade(model, seed=1))["0"]
    assert torch.equal(again[0].weight, steps[2][1][0].weight)
    with pytest.raises(ValueError, match="no layer"):
        next(cascade(nn.ReLU()))


@pytest.mark.parametrize("bias", [True, False])
def test_the_cascade_refuses_weights_that_are_computed(bias):
    """reset_parameters would draw a tensor that the next forward pass forgets."""
    convolution = weight_norm(nn.Conv2d(1, 2, 3, bias=bias))
    with pytest.raises(ValueError, match="layer '0' is parametrised"):
        next(cascade(nn.Sequential(convolution, nn.Linear(2, 2))))


def test_the_cascade_draws_every_layer_for_itself():
    *_, (_, last) = cascade(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)))
    assert not torch.equal(last[0].weight, last[1].weight)


def test_the_cascade_keeps_weights_tied():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    for _, copy in cascade(model):
        assert copy[2].weight is copy[0].weight


def test_the_completeness_defect():
    maps = torch.tensor([[[1.0, 2.0]], [[1.0, 1.0]], [[0.0, 0.0]]])
    scores = torch.tensor([4.0, 1.0, 1.0])
    assert completeness_defect(maps, scores, 1.0).tolist() == [0.0, math.inf, 0.0]
    assert completeness_defect(maps, scores).tolist() == pytest.approx([0.25, 1.0, 1.0])
    with pytest.raises(ValueError, match="scores: expected shape"):
        completeness_defect(maps, scores[:2])


def test_wilsons_interval_is_scipys():
    hits = torch.arange(40) < 37
    expected = stats.binomtest(37, 40).proportion_ci(method="wilson")
    found = proportion(hits)
    assert found.mean == 37 / 40
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert proportion(torch.ones(5, dtype=torch.bool)).high == 1.0
    with pytest.raises(ValueError, match="booleans"):
        proportion(torch.ones(5))


def test_the_interval_of_a_mean():
    values = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = stats.norm.interval(0.95, values.mean(), values.std() / math.sqrt(50))
    assert (mean(values).low, mean(values).high) == pytest.approx(expected, rel=1e-9)
    with pytest.raises(ValueError, match="at least two"):
        mean(values[:1])
