"""What the documents promise is what the code has."""

import re
from pathlib import Path

from offaxis.catalog import collect
from offaxis.diagnostics import similarity
from offaxis.diagnostics.base import Diagnostic
from offaxis.table import TABLES

ROOT = Path(__file__).parents[1]


def test_the_schema_page_names_every_column_and_quantity() -> None:
    page = (ROOT / "docs" / "results.md").read_text("utf-8")
    named = set(re.findall(r"`([a-z0-9_]+)`", page))
    for name, schema in TABLES.items():
        assert name in named
        assert set(schema.names) <= named, name
    for item in collect("offaxis.diagnostics", Diagnostic).values():
        assert {item.name, *item.units, *item.ensembles, *item.primary} <= named
    assert {similarity.NAME, *similarity.UNITS, *similarity.PRIMARY} <= named


def test_the_readme_draws_the_tree_that_is_there() -> None:
    page = (ROOT / "README.md").read_text("utf-8")
    drawn = set(re.findall(r"^  ([a-z_]+(?:\.py|/)) ", page, flags=re.MULTILINE))
    package = ROOT / "src" / "offaxis"
    there = {p.name + ("/" if p.is_dir() else "") for p in package.iterdir()}
    there -= {"__pycache__/", "__init__.py", "__main__.py", "py.typed"}
    assert drawn == there


def test_documents_name_files_that_exist() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8")):
            assert (ROOT / link).exists(), f"{page.name}: {link}"
