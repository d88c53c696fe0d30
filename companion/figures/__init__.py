"""The visual language of the book: one palette, one style, a few kinds of picture."""

from companion.figures.grids import draw_grid, draw_taps, window
from companion.figures.interactive import Slider, slider
from companion.figures.layers import draw_flow, draw_layers
from companion.figures.plane import draw_arrows, draw_field, draw_trajectories
from companion.figures.stability import draw_stability
from companion.figures.style import COLORS, figure, use_style
from companion.figures.trees import draw_tree

__all__ = [
    "COLORS",
    "Slider",
    "draw_arrows",
    "draw_field",
    "draw_flow",
    "draw_grid",
    "draw_layers",
    "draw_stability",
    "draw_taps",
    "draw_trajectories",
    "draw_tree",
    "figure",
    "slider",
    "use_style",
    "window",
]
