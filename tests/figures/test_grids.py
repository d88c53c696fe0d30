"""Drawings of small images: every number in its square, every line to what is read."""

import matplotlib
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.colors import to_rgba

from companion.figures import COLORS, draw_grid, draw_taps, window


@pytest.fixture
def ax():
    fig, ax = plt.subplots()
    yield ax
    plt.close(fig)


def test_numbers_are_in_their_squares(ax):
    draw_grid(ax, [[1, -2, 3], [4, "", 6]], (10.0, 20.0))
    written = {text.get_position(): text.get_text() for text in ax.texts}
    assert written == {
        (10.5, 20.5): "1", (11.5, 20.5): "-2", (12.5, 20.5): "3",
        (10.5, 21.5): "4", (11.5, 21.5): "", (12.5, 21.5): "6",
    }  # fmt: skip


def test_marked_squares_are_filled(ax):
    draw_grid(ax, [[0, 0], [0, 0]], (1.0, 2.0), color="#112233", marked={(1, 0)})
    filled = [p.get_xy() for p in ax.patches if p.get_facecolor()[3] > 0]
    assert filled == [(1.0, 3.0)]
    drawn = {patch.get_edgecolor() for patch in ax.patches if patch.get_edgecolor()[3] > 0}
    assert drawn == {to_rgba("#112233")}


def test_rows_run_downwards_however_many_grids_there_are(ax):
    draw_grid(ax, [[1]])
    draw_grid(ax, [[2]], (3, 0))
    bottom, top = ax.get_ylim()
    assert bottom > top
    assert ax.get_xlim()[0] <= 0
    assert ax.get_xlim()[1] >= 4


def test_window():
    assert window((2, 1), (2, 3)) == {(2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (3, 3)}
    assert window((0, 0), (2, 1), dilation=3) == {(0, 0), (3, 0)}


@pytest.mark.parametrize(
    ("arguments", "reads"),
    [
        ((4, 3), {1.0: {0, 1, 2}, 2.0: {1, 2, 3}}),
        ((3, 2), {0.5: {0, 1}, 1.5: {1, 2}}),
        ((5, 3, 2, (1, 1)), {0.0: {-1, 0, 1}, 2.0: {1, 2, 3}, 4.0: {3, 4, 5}}),
        ((4, 2, 3, (0, 2), 2), {1.0: {0, 2}, 4.0: {3, 5}}),
    ],
)
def test_lines_lead_from_the_middle_of_a_window_to_what_it_reads(ax, arguments, reads):
    draw_taps(ax, *arguments)
    drawn = {}
    for line in ax.lines:
        (below, above), heights = line.get_data()
        assert list(heights) == [0, 1]
        drawn.setdefault(above, set()).add(below)
    assert drawn == reads
    assert sorted(x for x, _ in ax.collections[2].get_offsets()) == sorted(reads)


def test_zeros_are_open_squares(ax):
    draw_taps(ax, 3, 3, padding=(1, 2))
    inputs, zeros, outputs = ax.collections
    assert [x for x, _ in inputs.get_offsets()] == [0, 1, 2]
    assert [x for x, _ in zeros.get_offsets()] == [-1, 3, 4]
    assert tuple(zeros.get_facecolors()[0]) == (1, 1, 1, 1)
    assert tuple(inputs.get_facecolors()[0]) == to_rgba(COLORS["state"])
    assert {y for _, y in outputs.get_offsets()} == {1}
