"""Every page of the site: its size, its links, its search, its pictures, and whether everyone can read it."""

from __future__ import annotations

import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import Page, expect

from .axe import violations
from .conftest import SITE, Open, Tab

MOVED = "<title>This page has moved"
PAGES = sorted(
    path.relative_to(SITE).as_posix()
    for path in SITE.rglob("*.html")
    if path.name != "404.html" and MOVED not in path.read_text()  # a server sends 404.html, from any folder
)
MEGABYTE = 1_000_000

pytestmark = pytest.mark.skipif(not PAGES, reason="there is no site; conftest.py says how to build it")


class Elements(HTMLParser):
    """What a page has of anchors, links, pictures and headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.resources: list[str] = []
        self.alts: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        have = dict(attrs)
        for anchor in (have.get("id"), have.get("name") if tag == "a" else None):
            if anchor:
                self.anchors.add(anchor)
        if tag == "a" and have.get("href"):
            self.links.append(have["href"] or "")
        if tag in ("img", "script", "source", "audio", "video", "iframe") and have.get("src"):
            self.resources.append(have["src"] or "")
        if tag == "link" and have.get("rel") in ("stylesheet", "icon", "modulepreload", "preload"):
            self.resources.append(have.get("href") or "")
        if tag == "img":
            self.alts.append((have.get("src") or "", have.get("alt")))


@cache
def elements(page: Path) -> Elements:
    return Elements(page.read_text())


def target(page: str, link: str) -> tuple[Path, str]:
    """The file that a link leads to, and the place in it."""
    parts = urlsplit(link)
    path = SITE / page if not parts.path else (SITE / page).parent / unquote(parts.path)
    return path.resolve(), unquote(parts.fragment)


def test_site_is_small() -> None:
    sizes = {path: path.stat().st_size for path in SITE.rglob("*") if path.is_file() and path.suffix != ".ipynb"}
    largest = sorted(sizes, key=lambda path: -sizes[path])[:10]
    shown = [f"{path.relative_to(SITE)}: {sizes[path]:,}" for path in largest]
    assert sum(sizes.values()) < 5 * MEGABYTE, shown


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    wrong = []
    for link in elements(SITE / page).links:
        if urlsplit(link).scheme or link == "#":
            continue
        path, anchor = target(page, link)
        if not path.is_file() or (anchor and path.suffix == ".html" and anchor not in elements(path).anchors):
            wrong.append(link)
    assert wrong == []


@pytest.mark.parametrize("page", PAGES)
def test_nothing_comes_from_the_network(page: str) -> None:
    """Nothing that the page loads; links may lead elsewhere."""
    for resource in elements(SITE / page).resources:
        assert not urlsplit(resource).netloc, resource
        assert target(page, resource)[0].is_file(), resource


@pytest.mark.parametrize("page", PAGES)
def test_pictures_are_told_in_words(page: str) -> None:
    for source, alt in elements(SITE / page).alts:
        assert alt, f"{source} has no alternative text"
        assert len(alt.split()) >= 4, f"{source}: {alt}"


def test_old_addresses_lead_to_pages(open_page: Open) -> None:
    page = open_page("noise/index.html#law-to-the-tails")
    page.wait_for_url("**/noise.html#law-to-the-tails")
    assert page.locator("h1").inner_text().startswith("Noise")
    moved = [path for path in SITE.rglob("*.html") if MOVED in path.read_text()]
    assert len(moved) >= 30
    for path in moved:
        to = re.search(r'url=([^"]+)"', path.read_text())
        assert to is not None
        assert (path.parent / to[1]).is_file()


def test_every_page_is_in_llms_txt() -> None:
    text = (SITE / "llms.txt").read_text()
    listed = re.findall(r"\]\(([^)]+)\)", text)
    assert {link for link in listed if "#" not in link} == set(PAGES)
    for link in listed:
        path, anchor = target("llms.txt", link)
        assert not anchor or anchor in elements(path).anchors, link
    assert re.search(r"^> A PyTorch library .*", text, re.MULTILINE)
    for line in text.splitlines():
        assert not re.match(r"- .*\): *$", line), f"no description: {line}"


def test_names_link_to_their_reference() -> None:
    def linked(page: str, code: str) -> set[str]:
        return set(re.findall(rf'<a href="([^"]+)"><code>{re.escape(code)}</code></a>', (SITE / page).read_text()))

    assert "noise.html#argumbel.noise.KeyedNoise" in linked("choice.html", "KeyedNoise")
    assert linked("subsets.html", "priority_sample") == {"subsets.html#argumbel.subsets.priority_sample"}
    assert linked("which.html", "ag.categorical(logits)") == {"choice.html#argumbel.choice.categorical"}
    assert linked("relax.html", "gumbel_softmax(logits, tau)") == {"relax.html#argumbel.relax.gumbel_softmax"}
    assert linked("estimators.html", "gumbel_softmax") == {"estimators.html#argumbel.estimators.gumbel_softmax"}


SEARCHES = {
    "gumbel top k": "choice.html",
    "weighted reservoir": "tables.html",
    "shards": "noise.html",
    "reproducible": "noise.html",
    "data parallel": "noise.html",
    "black box loss": "which.html",
    "non-differentiable loss": "estimators.html",
    "importance weights": "subsets.html",
    "straight through": "relax.html",
    "counterfactual": "coupling.html",
    "threshold_weights": "subsets.html",
}


def test_search_finds(open_page: Open) -> None:
    """The page is among the first three."""
    shown = open_page("index.html")
    shown.keyboard.press("/")
    box = shown.get_by_role("textbox", name="Search")
    results = shown.locator(".md-search-result__item")  # a page each
    missed = []
    for query, page in SEARCHES.items():
        box.fill("")
        box.press("Shift")  # the search looks at what is written when a key goes up
        expect(results).to_have_count(0)
        box.fill(query)
        box.press("Shift")
        results.first.wait_for()
        first = [result.locator("a").first.get_attribute("href") or "" for result in results.all()[:3]]
        found = [urlsplit(link).path.rpartition("/")[2] for link in first]
        if page not in found:
            missed.append((query, page, found))
    assert missed == []


def test_front_page_is_there_within_a_second(open_page: Open, tab: Tab) -> None:
    """The least of three times: a busy machine makes a page slower, and never faster."""
    times = []
    for _ in range(3):
        tab.renew()
        page = open_page("index.html")
        page.locator("[data-play] :is(svg, canvas)").first.wait_for()
        times.append(
            page.evaluate(
                "Math.max(performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd,"
                " performance.getEntriesByName('first-contentful-paint')[0].startTime)"
            )
        )
    assert min(times) < 1000


def _section(page: Page, address: str) -> str:
    """The text of the section that the page has been sent to, which must be on the screen."""
    page.wait_for_url(lambda url: re.sub(r"\?[^#]*", "", url).endswith(f"/{address}"))
    heading = page.locator(f"[id='{address.partition('#')[2]}']")
    expect(heading).to_be_in_viewport()
    return heading.evaluate(
        """(heading) => {
            const parts = [];
            for (let e = heading; e && (e === heading || !/^H[123]$/.test(e.tagName)); e = e.nextElementSibling) {
                parts.push(e.textContent);
            }
            return parts.join(" ");
        }"""
    )


@pytest.mark.parametrize(
    ("door", "question", "line", "section", "words", "result", "answer"),
    [
        (
            *("in any shard", "draw reproducibly in shards", "ag.KeyedNoise(7, rows=range(4, 8))"),
            "noise.html#the-same-draws-in-any-batch-or-shard",
            *("reproducible shards", "noise.html#the-same-draws-in-any-batch-or-shard"),
            "ag.KeyedNoise(seed=7, rows=rows)",
        ),
        (
            *("gradient estimators", "the loss is a black box", "estimators.reinforce_loo(f, logits, num_samples=4)"),
            "estimators.html#which-one",
            *("black box loss", "tutorials/gradient-estimators.html#a-black-box"),
            "reinforce_loo",
        ),
        (
            "importance weights",
            "importance weights of a sample without replacement",
            "ag.threshold_weights(drawn.values, logits.gather(-1, drawn.indices))",
            "subsets.html#what-a-draw-says-of-the-whole",
            *("importance weights", "subsets.html#argumbel.subsets.threshold_weights"),
            "threshold_weights(",
        ),
    ],
    ids=["shards", "black box", "weights"],
)
def test_newcomers_find_their_section(
    open_page: Open, door: str, question: str, line: str, section: str, words: str, result: str, answer: str
) -> None:
    """From the front page: by a link there, by the table of tasks, and by the search."""
    page = open_page("index.html")
    page.get_by_role("link", name=door, exact=True).click()
    assert answer in _section(page, section)

    page = open_page("index.html")
    page.get_by_role("link", name="Which one do I want?").last.click()
    page.wait_for_url("**/which.html")
    row = page.get_by_role("row").filter(has_text=question)
    assert line in row.inner_text()
    row.get_by_role("link").last.click()
    assert answer in _section(page, section)

    page = open_page("index.html")
    page.keyboard.press("/")
    page.get_by_role("textbox", name="Search").press_sequentially(words)
    name, _, anchor = result.partition("#")
    page.locator(f".md-search-result__item:nth-child(-n + 3) a[href*='{name}'][href$='#{anchor}']").click()
    assert answer in _section(page, result)


@pytest.mark.parametrize("page", PAGES)
def test_everyone_can_read(page: str, open_page: Open) -> None:
    """In light and dark, and without scrolling sideways on a telephone."""
    shown = open_page(page, motion="reduce")
    assert violations(shown, {"rules": {"color-contrast": {"enabled": False}}}) == ""
    # Contrast takes long, and the docstrings of a page look alike: the first four are enough.
    context = {"exclude": [".doc-children > .doc-object:nth-of-type(n + 5)"]}
    assert violations(shown, {"runOnly": ["color-contrast"]}, context) == ""
    shown.get_by_title("Dark", exact=True).click()
    shown.wait_for_function("document.body.dataset.mdColorScheme === 'slate'")
    assert violations(shown, {"runOnly": ["color-contrast", "link-in-text-block"]}, context) == ""
    shown.set_viewport_size({"width": 390, "height": 800})
    shown.wait_for_function("document.documentElement.scrollWidth <= 390", timeout=5_000)


def test_the_keyboard_shows_where_it_is(open_page: Open) -> None:
    page = open_page("which.html")
    link = page.locator("article a:not(.headerlink)").first
    for _ in range(60):
        page.keyboard.press("Tab")
        if link.evaluate("link => link === document.activeElement"):
            break
    assert link.evaluate("link => getComputedStyle(link).outlineStyle") == "solid"


def test_motion_can_be_reduced(open_page: Open) -> None:
    page = open_page("which.html", motion="reduce")
    durations = page.evaluate(
        "[...document.querySelectorAll('*')].map(e => parseFloat(getComputedStyle(e).transitionDuration))"
    )
    assert max(durations) < 0.001
