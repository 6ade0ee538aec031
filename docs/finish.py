"""What is done to the finished pages of the site, by `mkdocs build` (as a hook) or, after any generator, by
`python docs/finish.py site`.

It reads the HTML and the navigation, so that the site can move to another generator:

- a smaller site: white space, languages of the search that no page is written in, source maps;
- the table of every name in reference.html, with the first sentence of its docstring;
- links from names in the text and in docstrings to their reference;
- llms.txt, a table of contents for programs that read;
- redirects from old addresses to pages.
"""

from __future__ import annotations

import ast
import html
import json
import re
import shutil
import sys
from collections.abc import Iterator
from os.path import relpath
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]

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
PLAIN = re.compile(r'<span class="(?:n|o|p|w)">([^<]*)</span>')  # site.css gives them no colour
TITLE = re.compile(r'<span title="[^"]*">([^<]*)</span>|(?<=<a class="autorefs autorefs-internal") title="[^"]*"')
CODE = re.compile(r"<pre\b.*?</pre>", re.DOTALL)
BLOCK = re.compile(r"<(pre|ul)\b.*?</\1>", re.DOTALL)
FROM_DISK = re.compile(r'location\.protocol==="file:"\?(?=\w+\(`\$\{new URL\("search/search_index\.js")')
TAG = re.compile(r"</?(?!p\b)\w[^>]*>")

ENTRY = re.compile(
    r'<h\d id="(argumbel[\w.]+)" class="doc doc-heading">(?:(?!</h\d>).)*</h\d>'
    r'(?:(?!<h\d |<div class="doc doc-contents).)*(?:<div class="doc doc-contents[^"]*">(.*?</p>))?',
    re.DOTALL,
)
UNTOUCHED = re.compile(r"(<pre\b.*?</pre>|<a\b.*?</a>|<h[1-6]\b.*?</h[1-6]>|<summary\b.*?</summary>)", re.DOTALL)
ARTICLE = re.compile(r"<article\b.*</article>", re.DOTALL)
MENTION = re.compile(r"<code>(?:ag\.|argumbel\.)?([A-Za-z_][\w.]*)(\([^<]*\))?</code>")


class Name(NamedTuple):
    """A public name: `argumbel.choice.categorical`, the page of its reference, and what it is for."""

    id: str
    page: Path
    summary: str

    @property
    def module(self) -> str:
        return self.id.split(".")[1]

    @property
    def local(self) -> str:
        """The name within its module: a function, a class, or, with a dot, a method."""
        return ".".join(self.id.split(".")[2:])


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


def without_space(page: str) -> str:
    """The page without indentation; what stands in boxes of code stays."""
    page = TITLE.sub(lambda match: match[1] or "", PLAIN.sub(r"\1", page))
    parts = VERBATIM.split(page)  # text, block, name of its tag, text, ...
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
        for section in content["docs"]:  # code, arguments and examples find nothing that the text does not
            unread = BLOCK if "#argumbel." in section["location"] else CODE
            section["text"] = " ".join(TAG.sub("", unread.sub("", section["text"])).split())
        text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
        index.write_text(text)
        index.with_suffix(".js").write_text(f"var __index = {text}")
        read_once(site)


def read_once(site: Path) -> None:
    """From a disk the search reads its index from a script, which a server can send as well: one file, not two."""
    for script in site.glob("assets/javascripts/bundle.*.js"):
        text, count = FROM_DISK.subn("!0?", script.read_text())
        if count == 1:
            script.write_text(text)
            (site / "search/search_index.json").unlink()


def repair(site: Path) -> None:
    """What a screen reader stumbles over in the theme: a dialogue without a name, parts of a table of contents with the
    name of a section of the site, a landmark for each box of code."""
    for path in site.rglob("*.html"):
        text = path.read_text()
        text = text.replace(
            'component="search" role="dialog">', 'component="search" role="dialog" aria-label="Search">'
        )
        path.write_text(re.sub(r'<nav class="md-nav" aria-label="(?!Within )', r"\g<0>Within ", text))
    for path in site.glob("assets/javascripts/bundle.*.js"):
        path.write_text(path.read_text().replace('"nav",{class:"md-code__nav"}', '"div",{class:"md-code__nav"}'))


def plain(fragment: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", fragment)).split())


def first_sentence(text: str) -> str:
    """Up to the first full stop that ends a sentence: not one within parentheses or a number."""
    found = re.match(r"(?:\([^()]*\)|[^.]|\.(?=\S))*?[.?!](?=\s|$)", text)
    return found[0] if found else text


def names(site: Path) -> list[Name]:
    """Every name whose reference is on a page, in the order of the pages' files."""
    return [
        Name(id, page, first_sentence(plain(contents or "")))
        for page in pages(site)
        for id, contents in ENTRY.findall(page.read_text())
    ]


class Links:
    """What a name in the text of a page means: a name of its module, of `argumbel` itself, or of one module only."""

    def __init__(self, known: list[Name]) -> None:
        self.by_id = {name.id: name for name in known}
        self.by_page: dict[tuple[Path, str], Name] = {}
        self.shared: dict[str, list[Name]] = {}
        for name in known:
            self.by_page.setdefault((name.page, name.local), name)
            self.shared.setdefault(name.local, []).append(name)
        source = ast.parse((ROOT / "src/argumbel/__init__.py").read_text())
        self.top: dict[str, Name] = {
            alias.name: self.by_id[f"argumbel.{line.module}.{alias.name}"]
            for line in source.body
            if isinstance(line, ast.ImportFrom) and line.level == 1 and line.module
            for alias in line.names
            if f"argumbel.{line.module}.{alias.name}" in self.by_id
        }

    def find(self, text: str, page: Path) -> Name | None:
        found = self.by_id.get(f"argumbel.{text}") or self.by_page.get((page, text)) or self.top.get(text)
        alone = self.shared.get(text, [])
        if found is None and len(alone) == 1 and re.match("[A-Z]|[a-z]+_", text):  # no word of everyday language
            found = alone[0]
        if found is None and "." in text:  # a method of a class that has been named
            owner, _, method = text.rpartition(".")
            of = self.find(owner, page)
            found = self.by_id.get(f"{of.id}.{method}") if of else None
        return found


def cross_link(site: Path, known: list[Name]) -> None:
    links = Links(known)
    for page in pages(site):
        if not (article := ARTICLE.search(page.read_text())):
            continue
        described = ""

        def link(mention: re.Match[str]) -> str:
            name = links.find(mention[1], page)  # noqa: B023
            if name is None or name.id == described:  # noqa: B023
                return mention[0]
            return f'<a href="{relpath(name.page, page.parent)}#{name.id}">{mention[0]}</a>'  # noqa: B023

        parts = UNTOUCHED.split(article[0])
        for i, part in enumerate(parts):
            if heading := re.match(r'<h\d id="(argumbel[\w.]+)"', part):
                described = heading[1]
            elif i % 2 == 0:
                parts[i] = MENTION.sub(link, part)
        page.write_text(article.string[: article.start()] + "".join(parts) + article.string[article.end() :])


def list_names(site: Path, known: list[Name]) -> None:
    page = site / "reference.html"
    if not page.exists():
        return

    def table(match: re.Match[str]) -> str:
        made = []
        for module in match[1].split():
            here = [name for name in known if name.module == module and "." not in name.local and name.local[0] != "_"]
            if not here:
                raise ValueError(f"reference.md lists argumbel.{module}, which has no name on any page")
            where = relpath(here[0].page, site)
            rows = "".join(
                f'<tr><td><a href="{relpath(name.page, site)}#{name.id}"><code>{name.local}</code></a></td>'
                f"<td>{html.escape(name.summary)}</td></tr>"
                for name in here
            )
            made.append(
                f'<h3 id="{module}"><a href="{where}">argumbel.{module}</a></h3><div class="md-typeset__scrollwrap">'
                f'<div class="md-typeset__table"><table><thead><tr><th>name</th><th>what it is</th></tr></thead>'
                f"<tbody>{rows}</tbody></table></div></div>"
            )
        return "".join(made)

    page.write_text(re.sub(r'<div data-names="([^"]*)"></div>', table, page.read_text()))


def navigation(entries: list[Any], section: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """The pages of the navigation: their sections, title and file."""
    for entry in entries:
        for title, what in entry.items():
            if isinstance(what, str):
                yield section, title, what
            else:
                yield from navigation(what, (*section, title))


def write_contents(site: Path, nav: list[Any], known: list[Name]) -> None:
    lines = ["# argumbel", ""]
    before: tuple[str, ...] = ()
    for section, title, source in navigation(nav):
        address = source.removesuffix(".md") + ".html"
        paragraph = re.search(r"</h1>.*?<p\b[^>]*>(.*?)</p>", (site / address).read_text(), re.DOTALL)
        about = plain(paragraph[1]) if paragraph else ""
        if source == "index.md":
            lines += [f"> {about}", ""]
        if section != before:
            lines += ["", f"## {': '.join(section)}", ""] if before else [f"## {': '.join(section)}", ""]
            before = section
        lines.append(f"- [{title}]({address}): {about}")
    lines += ["", "## Every name", ""]
    for name in known:
        if "." not in name.local:
            lines.append(f"- [{name.id}]({relpath(name.page, site)}#{name.id}): {name.summary}")
    (site / "llms.txt").write_text("\n".join(lines) + "\n")


def finish(site: Path, nav: list[Any]) -> None:
    shrink(site)
    repair(site)
    known = names(site)
    cross_link(site, known)
    list_names(site, known)
    write_contents(site, nav, known)
    redirect(site)


def on_post_build(config: Any) -> None:
    finish(Path(config.site_dir), config.nav)


on_post_build.mkdocs_priority = -200  # type: ignore[attr-defined]  # after the plugins, which write the search index


if __name__ == "__main__":
    import yaml

    finish(Path(sys.argv[1]), yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
