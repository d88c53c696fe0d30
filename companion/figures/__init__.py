"""The visual language of the book: one palette, one style, a few kinds of picture."""

from companion.figures.plane import draw_arrows, draw_field, draw_trajectories
from companion.figures.style import COLORS, figure, use_style

__all__ = [
    "COLORS",
    "draw_arrows",
    "draw_field",
    "draw_trajectories",
    "figure",
    "use_style",
]
