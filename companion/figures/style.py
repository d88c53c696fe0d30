"""One look for all figures.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart, and each means the
same thing everywhere: the state, the adjoint, data, and what is wrong.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt

COLORS = {
    "state": "#0072B2",
    "adjoint": "#D55E00",
    "data": "#444444",
    "model": "#009E73",
    "wrong": "#CC79A7",
    "field": "#8A8A8A",
}

#: Width of a figure in inches: the width of the text on a laptop.
WIDTH = 7.0


def use_style() -> None:
    """Set Matplotlib's defaults; the first cell of a chapter calls this."""
    plt.rcParams.update(
        {
            "figure.dpi": 120,
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": "medium",
            "axes.titlelocation": "left",
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.prop_cycle": plt.cycler(
                color=[COLORS[k] for k in ("state", "adjoint", "model", "wrong", "data")]
            ),
            "grid.alpha": 0.25,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
        }
    )


def figure(columns: int = 1, height: float = 3.0, **kwargs: Any) -> tuple[Any, Any]:
    """A row of axes as wide as the text: ``(figure, axes)`` as from ``plt.subplots``."""
    return plt.subplots(1, columns, figsize=(WIDTH, height), **kwargs)
