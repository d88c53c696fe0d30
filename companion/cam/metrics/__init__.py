"""What a heatmap is worth: localisation, faithfulness, sanity; for anyone's heatmaps."""

from companion.cam.metrics.completeness import completeness_defect
from companion.cam.metrics.faithfulness import average_drop, deletion, insertion
from companion.cam.metrics.intervals import Estimate, mean, proportion
from companion.cam.metrics.localisation import (
    energy,
    inside,
    intersection_over_union,
    pointing_game,
)
from companion.cam.metrics.sanity import cascade, rank_correlation

__all__ = [
    "Estimate",
    "average_drop",
    "cascade",
    "completeness_defect",
    "deletion",
    "energy",
    "insertion",
    "inside",
    "intersection_over_union",
    "mean",
    "pointing_game",
    "proportion",
    "rank_correlation",
]
