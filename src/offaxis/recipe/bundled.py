"""The recipes that come with offaxis."""

from pathlib import Path


def recipes_folder() -> Path:
    """Return their folder: inside an installed package, beside `src` in the tree."""
    package = Path(__file__).parents[1]
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parents[1] / "recipes"
