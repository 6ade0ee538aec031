"""The pictures of the tutorials, drawn by the pages' own code; `pictures.py` draws them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from notebooks import TUTORIALS, Block, parts

matplotlib.use("agg")


@cache
def _figures(path: Path) -> dict[str, Figure]:
    """Run the page as one session, under the settings of its caller."""
    found, session = {}, dict[str, Any]()
    with contextlib.redirect_stdout(io.StringIO()):
        for part in parts(path.read_text()):
            if isinstance(part, Block):
                exec(compile(part.code, path.name, "exec"), session)
                if part.picture is not None:
                    found[part.picture] = session["figure"]
    return found


def _draw(path: Path, name: str) -> Figure:
    return _figures(path)[name]


PICTURES: dict[str, Callable[[], Figure]] = {
    part.picture: partial(_draw, path, part.picture)
    for path in TUTORIALS
    for part in parts(path.read_text())
    if isinstance(part, Block) and part.picture is not None
}
