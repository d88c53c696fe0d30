"""Drawings of rooted trees: every node once, no two in one place, edges one level up."""

import matplotlib
import pytest

from companion.figures import draw_tree
from companion.figures.trees import tree_layout
from companion.ode.trees import Tree, trees

EVERY = [tree for order in range(1, 8) for tree in trees(order)]


@pytest.mark.parametrize("tree", EVERY, ids=repr)
def test_layout(tree):
    nodes, edges = tree_layout(tree, (3.0, -2.0))
    assert nodes[0] == (3.0, -2.0)
    assert len(nodes) == tree.order
    near = [
        (p, q)
        for i, p in enumerate(nodes)
        for q in nodes[:i]
        if p[1] == q[1] and abs(p[0] - q[0]) < 1
    ]
    assert not near
    assert {end for _, end in edges} == set(nodes[1:])
    assert all(end[1] == start[1] + 1 for start, end in edges)


def test_one_unit_for_each_leaf():
    bush = Tree((Tree(),) * 3)
    assert tree_layout(bush)[0] == [(0, 0), (-1, 1), (0, 1), (1, 1)]


@pytest.mark.parametrize("tree", EVERY, ids=repr)
def test_edges_do_not_cross(tree):
    _, edges = tree_layout(tree)
    for i, (p, q) in enumerate(edges):
        for r, s in edges[:i]:
            if p[1] == r[1]:
                assert (p[0] - r[0]) * (q[0] - s[0]) > 0 or p == r


def rebuilt(node, children):
    return Tree(tuple(rebuilt(child, children) for child in children[node]))


def test_branches_of_a_drawing_give_the_tree_back():
    for tree in EVERY:
        nodes, edges = tree_layout(tree)
        children = {node: [end for start, end in edges if start == node] for node in nodes}

        assert rebuilt(nodes[0], children) == tree


def test_drawing():
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots()
    tree = trees(4)[1]
    draw_tree(ax, tree, (1.0, 2.0), color="#123456", s=7)
    nodes, edges = tree_layout(tree, (1.0, 2.0))
    drawn = [tuple(zip(*line.get_data(), strict=True)) for line in ax.lines]
    assert drawn == edges
    assert {line.get_color() for line in ax.lines} == {"#123456"}
    (dots,) = ax.collections
    assert [tuple(point) for point in dots.get_offsets()] == nodes
    assert dots.get_sizes().tolist() == [7]
    colours = [tuple(c) for c in dots.get_facecolors()]
    assert colours[0] == (1, 1, 1, 1)
    assert len(set(colours[1:])) == 1
    assert colours[1] != colours[0]
    plt.close(fig)
