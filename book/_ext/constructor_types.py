"""Describe the arguments of a class by the types of its constructor.

Sphinx evaluates the annotations of a class in the class's own namespace.  There an attribute hides
an argument of the same name (``kernel_size`` of a layer is a pair, its argument is a number or a
pair), and a name that only the constructor's module knows stays as it is written.
"""

from __future__ import annotations

import inspect
from typing import Any, get_type_hints

from sphinx.application import Sphinx
from sphinx.util.typing import stringify_annotation


def record(
    app: Sphinx, objtype: str, name: str, obj: Any, options: Any, args: str, returned: str
) -> None:
    """Overwrite what autodoc has recorded for a class that has a constructor of its own."""
    if objtype != "class" or not inspect.isfunction(obj.__init__):
        return
    try:
        types = get_type_hints(obj.__init__)
    except NameError:  # a name that is imported for type checkers alone
        return
    recorded = app.env.temp_data.get("annotations", {}).get(name, {})
    for argument in types.keys() & recorded.keys():
        recorded[argument] = stringify_annotation(types[argument], "smart")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-signature", record, priority=900)  # after autodoc's own
    return {"parallel_read_safe": True, "parallel_write_safe": True}
