"""Every paper of docs/papers.md, and every source that a docstring or a page names, has an entry in docs/papers.bib, by
which a reader finds it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAPERS, _, POSTS = (ROOT / "docs/papers.md").read_text().partition("\n## Posts\n")
BIBLIOGRAPHY = (ROOT / "docs/papers.bib").read_text()
CITED = re.findall(r"\*\*([^*]+?) (\d{4})\*\*, \*((?:\\\*|[^*])+)\*", " ".join(PAPERS.split()))
ENTRIES = {
    key: dict(re.findall(r"^  (\w+) = \{(.*)\},$", fields, re.MULTILINE))
    for key, fields in re.findall(r"^@\w+\{([\w-]+),\n(.*?)^\}$", BIBLIOGRAPHY, re.MULTILINE | re.DOTALL)
}
# Books, a report, a talk, and papers whose journal or proceedings give neither; most have an address.
NEITHER = {
    *("aaronson2022", "chen1994", "chu1965", "eisner1996", "gumbel1954", "hazan2013", "koo2007", "kool2019buy"),
    *("kool2020ancestral", "lafferty2001", "mussmann2016", "owen2013", "thorisson2000"),
}
#: Posts have no entry: the page has their address. They are signed with first names, which a docstring leaves out.
POSTED = [
    ([name.split()[-1] for name in authors.split(" and ")], year)
    for authors, year in re.findall(r"\*\*([^*]+) (\d{4})\*\*, \[", POSTS)
]
NAME = r"(?:van |Van den )?[A-Z][\w-]+"
NO_NAME = "August|In|Let"  # words before a number of four digits that are no author
SOURCE = re.compile(
    rf'\b(?!(?:{NO_NAME}) )({NAME}(?: et al\.|(?:, {NAME})* and {NAME})?) ((?:18|19|20)\d\d)\b(?!\.\d)(?:, "([^"]+)")?'
)


def words(title: str) -> str:
    return re.sub(r"[^a-z0-9 ]", "", title.replace("-", " ").lower())


def surnames(entry: dict[str, str]) -> list[str]:
    return [author.partition(",")[0] for author in entry["author"].split(" and ")]


def sources(text: str) -> list[tuple[str, str, str]]:
    """Authors and year of each paper that a text names, with its title where the text quotes it."""
    return SOURCE.findall(" ".join(text.split()))


def texts() -> Iterator[str]:
    """The other pages, and all strings of the package: docstrings, and the sources of recipes."""
    for page in [*(ROOT / "docs").rglob("*.md"), ROOT / "src/argumbel/kernels/README.md", ROOT / "README.md"]:
        if page.name != "papers.md":
            yield page.read_text()
    for path in (ROOT / "src/argumbel").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def is_known(authors: str, year: str, title: str = "") -> bool:
    first, *others = named = re.split(r", | and ", authors.removesuffix(" et al."))
    alone = not others and authors.endswith(" et al.")
    return (named, year) in POSTED or any(
        entry["year"] == year
        and words(entry["title"]).startswith(words(title))
        and (surnames(entry)[0] == first if alone else surnames(entry) == named)
        for entry in ENTRIES.values()
    )


def test_there_are_papers() -> None:
    assert len(CITED) == len(re.findall(r"\*\*[^*]+ \d{4}\*\*", PAPERS)) >= 100
    assert len(ENTRIES) == BIBLIOGRAPHY.count("\n@")
    assert len(POSTED) >= 4


@pytest.mark.parametrize(("authors", "year", "title"), CITED, ids=lambda part: part[:24])
def test_cited_paper_has_an_entry(authors: str, year: str, title: str) -> None:
    (entry,) = (
        entry
        for entry in ENTRIES.values()
        if entry["year"] == year and words(entry["title"]).startswith(words(title)) and surnames(entry)[0] in authors
    )
    if "et al." in authors:
        assert authors == f"{surnames(entry)[0]} et al."
    else:
        assert re.split(r", | and ", authors) == surnames(entry)


@pytest.mark.parametrize("key", ENTRIES)
def test_entry_is_cited_and_can_be_found(key: str) -> None:
    entry = ENTRIES[key]
    assert any(year == entry["year"] and words(entry["title"]).startswith(words(title)) for _, year, title in CITED)
    assert ("doi" in entry or "eprint" in entry) != (key in NEITHER)
    assert re.fullmatch(r"10\.\d{4,}/\S+", entry.get("doi", "10.1000/x"))
    assert re.fullmatch(r"\d{4}\.\d{4,5}|[a-z-]+/\d{7}", entry.get("eprint", "1234.5678"))


def test_no_number_is_given_twice() -> None:
    numbers = [entry[field] for entry in ENTRIES.values() for field in ("doi", "eprint") if field in entry]
    assert len(numbers) == len(set(numbers))


def test_every_source_that_is_named_has_an_entry() -> None:
    named = {source for text in texts() for source in sources(text)}
    assert len(named) >= 100
    assert [source for source in sorted(named) if not is_known(*source)] == []


def test_a_source_without_an_entry_is_noticed() -> None:
    text = """Source: Kool, van Hoof and
    Welling 2019, "Stochastic beams"; Nobody et al. 1999, "A paper" (eq. 3); Vieira 2014, in [Dask 2026.8]."""
    known, unknown, post = sources(text)
    assert known == ("Kool, van Hoof and Welling", "2019", "Stochastic beams")
    assert unknown == ("Nobody et al.", "1999", "A paper")
    assert is_known(*known)
    assert is_known(*post)
    assert not is_known(*unknown)
    assert not is_known("Kool, van Hoof and Welling", "2018", "Stochastic beams")
    assert not is_known("Kool, van Hoof and Welling", "2019", "Stochastic trees")
    assert not is_known("Kool and Welling", "2019", "Stochastic beams")
