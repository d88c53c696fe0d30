"""Rooted trees, drawn with the root at the bottom."""

from __future__ import annotations

from typing import Any

from companion.figures.style import COLORS
from companion.ode.trees import Tree

Point = tuple[float, float]
Edge = tuple[Point, Point]


def draw_tree(
    ax: Any, tree: Tree, at: Point = (0.0, 0.0), color: str = COLORS["state"], **kwargs: Any
) -> None:
    """A rooted tree: a dot for each node, the root as a circle, one unit from node to node.

    Args:
        ax: Matplotlib axes; set their aspect to "equal".
        tree: the tree.
        at: where the root is.
        color: of lines and dots.
        kwargs: for ``ax.scatter``, such as the size ``s`` of the dots.
    """
    nodes, edges = tree_layout(tree, at)
    for start, end in edges:
        ax.plot(*zip(start, end, strict=True), color=color, zorder=2)
    dots = {"s": 36, "zorder": 3, "edgecolors": color, **kwargs}
    ax.scatter(*zip(*nodes, strict=True), c=["white", *[color] * (len(nodes) - 1)], **dots)


def tree_layout(tree: Tree, at: Point = (0.0, 0.0)) -> tuple[list[Point], list[Edge]]:
    """Where the nodes of a tree are, the root first, and the pairs of nodes that are joined.

    No two subtrees overlap: each has a strip of its own, as wide as it has leaves.

    >>> from companion.ode.trees import trees
    >>> tree_layout(trees(3)[0])[0]
    [(0.0, 0.0), (-0.5, 1.0), (0.5, 1.0)]
    """
    nodes, edges = [at], []
    left = at[0] - _leaves(tree) / 2
    for branch in tree.branches:
        width = _leaves(branch)
        above, joined = tree_layout(branch, (left + width / 2, at[1] + 1.0))
        edges += [(at, above[0]), *joined]
        nodes += above
        left += width
    return nodes, edges


def _leaves(tree: Tree) -> int:
    return sum(map(_leaves, tree.branches)) or 1
