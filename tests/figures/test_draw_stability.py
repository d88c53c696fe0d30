"""The region that is drawn is the region."""

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from companion.figures import draw_stability
from companion.ode.stability import stability_function
from companion.ode.tableaus import METHODS


@pytest.fixture
def ax():
    fig, ax = plt.subplots()
    yield ax
    plt.close(fig)


def drawn(ax, name, **options):
    """What is drawn for a method, from the region to the boundary."""
    draw_stability(ax, stability_function(METHODS[name]), x=(-3, 1), y=(-1.5, 2), **options)
    return ax.collections


def boundary(collection):
    return np.concatenate([path.vertices for path in collection.get_paths()])


def contains(collection, point):
    # Contours come as one compound path: a point is inside if it is inside an odd number of loops.
    loops = [p for path in collection.get_paths() for p in path.to_polygons()]
    inside = [matplotlib.path.Path(loop).contains_point(point) for loop in loops]
    return sum(inside) % 2 == 1


def test_the_boundary_of_euler_is_a_circle(ax):
    circle = boundary(drawn(ax, "euler")[1]) - (-1.0, 0.0)
    np.testing.assert_allclose(np.hypot(*circle.T), 1.0, atol=1e-3)


@pytest.mark.parametrize(("name", "outside"), [("euler", False), ("implicit_euler", True)])
def test_the_region_is_inside_for_euler_and_outside_for_implicit_euler(ax, name, outside):
    region = drawn(ax, name)[0]
    assert contains(region, (-1.0, 0.3))
    assert not contains(region, (0.5, 0.3))
    assert contains(region, (-2.5, 0.3)) == outside


def test_without_filling_there_is_only_the_boundary(ax):
    (line,) = drawn(ax, "euler", fill=False, label="Euler")
    np.testing.assert_allclose(np.hypot(*(boundary(line) - (-1.0, 0.0)).T), 1.0, atol=1e-3)
    assert ax.get_legend_handles_labels()[1] == ["Euler"]


def test_the_axes_are_as_asked_for(ax):
    drawn(ax, "rk4")
    assert (ax.get_xlim(), ax.get_ylim()) == ((-3, 1), (-1.5, 2))
    assert ax.get_aspect() == 1
