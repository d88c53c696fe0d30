"""The picture of a matrix shows each weight in a colour of its own."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from companion.figures.matrices import draw_matrix, weight_color

ENTRIES = [[1, 2, 0, 4], [0, 1, 2, 3]]


@pytest.fixture
def drawn():
    fig, ax = plt.subplots()
    draw_matrix(ax, ENTRIES, columns=2, block=(1, 2))
    yield ax
    plt.close(fig)


def test_weights_have_different_colours_and_zeros_are_white():
    colors = {weight_color(row, column, 3) for row in range(3) for column in range(3)}
    assert len(colors) == 9
    assert all(0 <= min(color) < 1 and max(color) <= 1 for color in colors)


def test_a_kernel_of_one_column_has_full_colours():
    assert weight_color(0, 0, 1) == weight_color(0, 0, 5)


def test_each_entry_has_the_colour_of_its_weight(drawn):
    colors = np.asarray(drawn.images[0].get_array())
    assert colors[0, 2].tolist() == colors[1, 0].tolist() == [1, 1, 1]
    for i, j in np.argwhere(ENTRIES):
        row, column = divmod(ENTRIES[i][j] - 1, 2)
        assert colors[i, j].tolist() == pytest.approx(weight_color(row, column, 2))


def test_lines_lie_between_blocks(drawn):
    horizontal = [line.get_ydata()[0] for line in drawn.lines if line.get_xdata()[0] == 0]
    vertical = [line.get_xdata()[0] for line in drawn.lines if line.get_ydata()[0] == 0]
    assert horizontal == [0.5]
    assert vertical == [1.5]
