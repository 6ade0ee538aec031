"""What the site does to docstrings before it reads them, so that sources stay as they read best in an editor.

A doctest becomes a fenced block (Markdown takes `>>>` for three quotations), and a role such as :func:`gumbel` the
plain name in code style.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

DOCTEST = re.compile(r"^(?P<indent> *)>>> .*(?:\n(?P=indent)\S.*)*", re.MULTILINE)
ROLE = re.compile(r":(?:func|class|meth|attr|mod):`~?\.?([\w.]+)`")


def _fence(match: re.Match[str]) -> str:
    indent = match["indent"]
    return f"{indent}```pycon\n{match[0]}\n{indent}```"


class Docstrings(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            text = ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = DOCTEST.sub(_fence, text)
