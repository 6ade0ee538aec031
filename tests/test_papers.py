"""Every paper of docs/papers.md has an entry in docs/papers.bib, by which a reader finds it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = " ".join((ROOT / "docs/papers.md").read_text().partition("\n## Posts\n")[0].split())
BIBLIOGRAPHY = (ROOT / "docs/papers.bib").read_text()
CITED = re.findall(r"\*\*([^*]+?) (\d{4})\*\*, \*((?:\\\*|[^*])+)\*", PAGE)
ENTRIES = {
    key: dict(re.findall(r"^  (\w+) = \{(.*)\},$", fields, re.MULTILINE))
    for key, fields in re.findall(r"^@\w+\{([\w-]+),\n(.*?)^\}$", BIBLIOGRAPHY, re.MULTILINE | re.DOTALL)
}
# A report, a talk, and papers whose proceedings give neither; some have an address.
NEITHER = {"gumbel1954", "aaronson2022", "koo2007", "kool2019buy", "kool2020ancestral", "mussmann2016"}


def words(title: str) -> str:
    return re.sub(r"[^a-z0-9 ]", "", title.replace("-", " ").lower())


def surnames(entry: dict[str, str]) -> list[str]:
    return [author.partition(",")[0] for author in entry["author"].split(" and ")]


def test_there_are_papers() -> None:
    assert len(CITED) == len(re.findall(r"\*\*[^*]+ \d{4}\*\*", PAGE)) >= 60
    assert len(ENTRIES) == BIBLIOGRAPHY.count("\n@")


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
