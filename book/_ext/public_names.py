"""Link a name in a docstring to its entry in the API pages, by whatever path it is known there.

A docstring says ``SolverError``, an annotation says ``companion.ode.errors.SolverError``, and the
reader knows it as ``companion.SolverError``. Where Sphinx finds no target of the exact name, the
one entry of the library with the same last name is meant; if there are several, or none, the
warning stands.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

PACKAGE = "companion."


def resolve(
    app: Sphinx, env: BuildEnvironment, node: Any, content: nodes.Element
) -> nodes.Element | None:
    if node.get("refdomain") != "py":
        return None
    last = node["reftarget"].rpartition(".")[2]
    entries = env.get_domain("py").objects.items()
    found = {
        (entry.docname, entry.node_id)
        for name, entry in entries
        if name.startswith(PACKAGE) and name.rpartition(".")[2] == last
    }
    if len(found) != 1:
        return None
    ((page, anchor),) = found
    return make_refnode(app.builder, node["refdoc"], page, anchor, content, node["reftarget"])


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
