"""The tutorials as notebooks: `python docs/notebooks.py FOLDER`. `make docs` puts them beside the pages.

A tutorial is a page of text and of Python blocks, which run one after another as one session. Below a block its page
shows what the block prints, in a block of `text`, and the picture that it draws, which the block names `figure`.
"""

from __future__ import annotations

import base64
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

DOCS = Path(__file__).parent
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))

_BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n"
    r"(?:\n```text\n(?P<printed>.*?)^```\n)?"
    r"(?:\n!\[[^\]]*\]\(\.\./images/(?P<picture>[\w-]+)\.png\)\n)?",
    re.MULTILINE | re.DOTALL,
)
_DOWNLOAD = re.compile(r"^\[[^\]]*\]\([\w-]+\.ipynb\).*\n\n", re.MULTILINE)
_LINK_WITHIN = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:)[^)]*\)")


class Block(NamedTuple):
    """A Python block of a page, what it prints (or nothing), and the name of the picture that it draws."""

    code: str
    printed: str | None
    picture: str | None


def parts(page: str) -> list[str | Block]:
    """The text of a page, cut at its Python blocks."""
    found: list[str | Block] = []
    end = 0
    for match in _BLOCK.finditer(page):
        found += [page[end : match.start()], Block(**match.groupdict())]
        end = match.end()
    return [part for part in [*found, page[end:]] if isinstance(part, Block) or part.strip()]


def notebook(path: Path) -> str:
    """The notebook of a page, with outputs and pictures in it. Links to other pages become their text."""
    cells = []
    for number, part in enumerate(parts(_DOWNLOAD.sub("", path.read_text()))):
        name = f"{path.stem}-{number}"  # nbformat's own names are random
        if isinstance(part, str):
            cells.append(new_markdown_cell(_LINK_WITHIN.sub(r"\1", part).strip(), id=name))
            continue
        outputs = []
        if part.printed is not None:
            outputs.append(new_output("stream", text=part.printed))
        if part.picture is not None:
            image = base64.b64encode((DOCS / "images" / f"{part.picture}.png").read_bytes()).decode()
            outputs.append(new_output("display_data", {"image/png": image}))
        cells.append(new_code_cell(part.code.strip(), id=name, outputs=outputs))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    made = new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})
    nbformat.validate(made)
    return nbformat.writes(made)


def on_files(files: Files, config: MkDocsConfig) -> None:
    """MkDocs calls this before it reads the pages: a notebook is one more file of the site."""
    from mkdocs.structure.files import File

    for path in TUTORIALS:
        files.append(File.generated(config, f"tutorials/{path.stem}.ipynb", content=notebook(path)))


if __name__ == "__main__":
    for tutorial in TUTORIALS:
        (Path(sys.argv[1]) / f"{tutorial.stem}.ipynb").write_text(notebook(tutorial))
