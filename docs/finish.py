"""What is done to the finished pages of the site, by `mkdocs build` (as a hook) or, after any generator, by
`python docs/finish.py site`.

It reads nothing but the HTML, so that the site can move to another generator:

- redirects from old addresses to pages;
- a smaller site: white space, languages of the search that no page is written in, source maps.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: Where pages that have moved are now, by address: {"old.html": "folder/new.html"}.
MOVED: dict[str, str] = {}

REDIRECT = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>This page has moved</title>
<link rel="canonical" href="{to}">
<script>location.replace("{to}" + location.search + location.hash)</script>
<meta http-equiv="refresh" content="0; url={to}">
</head>
<body>
<main><h1>This page has moved</h1><p>It is now at <a href="{to}">{to}</a>.</p></main>
</body>
</html>
"""

VERBATIM = re.compile(r"(<(pre|script|style|textarea)\b.*?</\2>)", re.DOTALL)
PLAIN = re.compile(r'<span class="(?:n|p|w)">([^<]*)</span>')  # they have no colour of their own
BLOCK = re.compile(r"<(pre|ul)\b.*?</\1>", re.DOTALL)
TAG = re.compile(r"</?(?!p\b)\w[^>]*>")


def pages(site: Path) -> list[Path]:
    """The pages themselves, without redirects."""
    return [path for path in sorted(site.rglob("*.html")) if "<title>This page has moved" not in path.read_text()]


def redirects(site: Path) -> Iterator[tuple[Path, str]]:
    """Old addresses, and where they lead: a page was once a folder, `noise/` for `noise.html`."""
    for old, new in MOVED.items():
        yield site / old, "../" * old.count("/") + new
    for page in pages(site):
        if page.name not in ("index.html", "404.html"):
            yield page.with_suffix("") / "index.html", f"../{page.name}"


def redirect(site: Path) -> None:
    for path, to in list(redirects(site)):
        if not (path.parent / to).resolve().exists():
            raise FileNotFoundError(f"{path} leads to {to}, which is not a page")
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(REDIRECT.format(to=to))


def without_space(html: str) -> str:
    """The page without indentation; what stands in boxes of code stays."""
    parts = VERBATIM.split(PLAIN.sub(r"\1", html))  # text, block, name of its tag, text, ...
    return "".join(re.sub(r"\s*\n\s*", "\n", part) if i % 3 == 0 else part for i, part in enumerate(parts) if i % 3 < 2)


def shrink(site: Path) -> None:
    for path in [*site.rglob("*.map"), *site.glob("assets/javascripts/lunr/**/*.js")]:
        path.unlink()
    shutil.rmtree(site / "assets/javascripts/lunr", ignore_errors=True)
    for path in site.glob("assets/**/*.js"):  # a browser's tools would look for the map
        path.write_text(re.sub(r"\n//# sourceMappingURL=.*", "", path.read_text()))
    for path in site.rglob("*.html"):
        path.write_text(without_space(path.read_text()))
    index = site / "search/search_index.json"
    if index.exists():
        content = json.loads(index.read_text())
        for section in content["docs"]:
            if "#argumbel." in section["location"]:  # arguments and examples find nothing that the text does not
                section["text"] = BLOCK.sub("", section["text"])
            section["text"] = " ".join(TAG.sub("", section["text"]).split())
        text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
        index.write_text(text)
        index.with_suffix(".js").write_text(f"var __index = {text}")


def finish(site: Path) -> None:
    shrink(site)
    redirect(site)


def on_post_build(config: Any) -> None:
    finish(Path(config.site_dir))


on_post_build.mkdocs_priority = -200  # type: ignore[attr-defined]  # after the plugins, which write the search index


if __name__ == "__main__":
    finish(Path(sys.argv[1]))
