"""The notebooks of the tutorials are their pages: the same code, outputs and pictures."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import nbformat
import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted((DOCS / "tutorials").glob("*.md"))


@pytest.fixture(scope="module")
def notebooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebooks", DOCS / "notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_notebook_is_its_page(page: Path, notebooks: ModuleType) -> None:
    text = page.read_text()
    made = nbformat.reads(notebooks.notebook(page), as_version=4)
    nbformat.validate(made)
    code = [cell.source + "\n" for cell in made.cells if cell.cell_type == "code"]
    assert code == re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)

    outputs = [output for cell in made.cells if cell.cell_type == "code" for output in cell.outputs]
    assert all("\n".join(("", "```text", output.text + "```")) in text for output in outputs if "text" in output)
    pictures = re.findall(r"!\[.*?\]\(\.\./images/(.*?)\)", text)
    assert sum("data" in output for output in outputs) == len(pictures)

    prose = "\n".join(cell.source for cell in made.cells if cell.cell_type == "markdown")
    assert re.findall(r"\]\((?!https?:).*?\)|\{.*\}", prose) == []  # nothing that a file by itself cannot show
    assert prose.startswith(text.partition("\n")[0])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_links_to_its_notebook(page: Path) -> None:
    name = f"{page.stem}.ipynb"
    assert f'[Download this page as a notebook]({name}){{ download="{name}" }}' in page.read_text()


def test_a_page_is_cut_at_its_blocks(notebooks: ModuleType) -> None:
    page = "One.\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n\nTwo.\n\n```text\nE = mc2\n```\n\n```python\n2\n```\n"
    block = notebooks.Block
    assert notebooks.parts(page) == [
        "One.\n\n",
        block("print(1)\n", "1\n", None),
        "\nTwo.\n\n```text\nE = mc2\n```\n\n",
        block("2\n", None, None),
    ]


def test_notebooks_are_reproducible(notebooks: ModuleType) -> None:
    for page in PAGES:
        assert notebooks.notebook(page) == notebooks.notebook(page)
        assert json.loads(notebooks.notebook(page))["nbformat"] == 4
