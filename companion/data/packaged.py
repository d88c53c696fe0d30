"""Files that installed packages ship."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def packaged_file(module: str, path: str, distribution: str) -> Path:
    """A file of an installed package, found without importing the package.

    Args:
        module: top-level module of the package, for example ``"sklearn"``.
        path: of the file, relative to the module's directory.
        distribution: what pip calls the package, for example ``"scikit-learn"``.

    Raises:
        ModuleNotFoundError: the package is not installed.
        FileNotFoundError: it is installed without the file.
    """
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"the data are in the package {distribution}, which is not installed: "
            f"pip install {distribution}",
            name=module,
        )
    file = Path(spec.submodule_search_locations[0], path)
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} should be there, since the package {distribution} ships it: "
            f"pip install --force-reinstall {distribution}"
        )
    return file
