"""What docs/finish.py does to the pages of a site."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
NAV = [{"Start": [{"argumbel": "index.md"}, {"Noise": "noise.md"}]}, {"Play": [{"The race": "play/race.md"}]}]
ENTRY = (
    '<h3 id="argumbel.noise.KeyedNoise" class="doc doc-heading"><span>KeyedNoise</span></h3>'
    '<div class="doc doc-contents "><p>Noise of <code>KeyedNoise(seed)</code> (i.e. a key): 0.5. More.</p></div>'
    '<h4 id="argumbel.noise.KeyedNoise.gumbel" class="doc doc-heading"><span>gumbel</span></h4>'
    '<div class="doc doc-contents "><p>Draws <code>KeyedNoise.gumbel</code> of a <code>KeyedNoise</code>.</p></div>'
)


@pytest.fixture(scope="module")
def finish() -> ModuleType:
    spec = importlib.util.spec_from_file_location("finish", ROOT / "docs" / "finish.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def site(tmp_path: Path) -> Path:
    files = {
        "index.html": "<article><h1>argumbel</h1>\n    <p>a <em>choice</em></p>\n</article>",
        "noise.html": "<article><h1>Noise</h1><p>What noise?</p>" + ENTRY + "</article>",
        "play/race.html": "<article><h1>R</h1><p>Who <code>KeyedNoise(seed=7)</code> <code>seed</code></p></article>",
        "404.html": "<p>not found</p>",
        "assets/javascripts/bundle.js": "code\n//# sourceMappingURL=bundle.js.map",
        "assets/javascripts/bundle.js.map": "map",
        "assets/javascripts/lunr/min/lunr.de.min.js": "language",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_old_addresses_lead_to_pages(finish: ModuleType, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish, "MOVED", {"old.html": "noise.html", "once/here.html": "play/race.html"})
    finish.finish(site, NAV)
    for old, to in {
        "old.html": "noise.html",
        "once/here.html": "../play/race.html",
        "noise/index.html": "../noise.html",
        "play/race/index.html": "../race.html",
    }.items():
        text = (site / old).read_text()
        assert f'href="{to}"' in text
        assert f'url={to}"' in text
        assert ((site / old).parent / to).exists()
    assert not (site / "404").exists()
    assert [page.relative_to(site).as_posix() for page in finish.pages(site)] == [
        "404.html",
        "index.html",
        "noise.html",
        "play/race.html",
    ]
    before = sorted(site.rglob("*"))
    finish.finish(site, NAV)  # once more changes nothing
    assert sorted(site.rglob("*")) == before


def test_a_redirect_to_nowhere_is_an_error(finish: ModuleType, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish, "MOVED", {"old.html": "nothing.html"})
    with pytest.raises(FileNotFoundError, match=r"nothing\.html"):
        finish.finish(site, NAV)


def test_space_goes_but_not_from_code(finish: ModuleType) -> None:
    html = '<div>\n\n    <p>a\n    b</p>\n  <pre>  x\n\n    y</pre>\n  <pre><span class="n">z</span></pre></div>'
    assert finish.without_space(html) == "<div>\n<p>a\nb</p>\n<pre>  x\n\n    y</pre>\n<pre>z</pre></div>"


def test_what_nobody_reads_goes(finish: ModuleType, site: Path) -> None:
    finish.finish(site, NAV)
    assert (site / "assets/javascripts/bundle.js").read_text() == "code"
    assert [path.name for path in (site / "assets").rglob("*") if path.is_file()] == ["bundle.js"]


def test_the_search_index_is_the_same_from_files_and_from_a_server(finish: ModuleType, site: Path) -> None:
    (site / "search").mkdir()
    page = {"location": "noise.html", "title": "Noise", "text": "<p>The <b>law</b></p>  <pre>code</pre> <ul>list</ul>"}
    name = {
        "location": "noise.html#argumbel.noise.gumbel",
        "title": "gumbel",
        "text": "<p>Noise.</p> <ul> <li><code>x</code></li> </ul> <pre>code</pre>",
    }
    index = site / "search/search_index.json"
    index.write_text(json.dumps({"config": {}, "docs": [page, name]}))
    finish.finish(site, NAV)
    assert [section["text"] for section in json.loads(index.read_text())["docs"]] == [
        "<p>The law</p> list",
        "<p>Noise.</p>",
    ]
    assert index.with_suffix(".js").read_text() == "var __index = " + index.read_text()


def test_landmarks_have_names_of_their_own(finish: ModuleType, site: Path) -> None:
    page = site / "noise.html"
    page.write_text(
        '<div data-md-component="search" role="dialog"></div><nav class="md-nav" aria-label="Sample"></nav>'
    )
    bundle = site / "assets/javascripts/bundle.1.min.js"
    bundle.write_text('x("nav",{class:"md-code__nav"})')
    for _ in range(2):
        finish.repair(site)
        assert 'role="dialog" aria-label="Search">' in page.read_text()
        assert '<nav class="md-nav" aria-label="Within Sample">' in page.read_text()
        assert bundle.read_text() == 'x("div",{class:"md-code__nav"})'


def test_the_search_index_is_there_once_if_the_theme_allows(finish: ModuleType, site: Path) -> None:
    (site / "search").mkdir()
    (site / "search/search_index.json").write_text(json.dumps({"config": {}, "docs": []}))
    bundle = site / "assets/javascripts/bundle.1.min.js"
    script = 'f(){return location.protocol==="file:"?_t(`${new URL("search/search_index.js",b)}`):z(b)}'
    bundle.write_text(script)
    finish.finish(site, NAV)
    assert bundle.read_text() == script.replace('location.protocol==="file:"', "!0")
    assert [path.name for path in (site / "search").iterdir()] == ["search_index.js"]


def test_names_link_to_their_reference(finish: ModuleType, site: Path) -> None:
    finish.finish(site, NAV)
    link = '<a href="../noise.html#argumbel.noise.KeyedNoise"><code>KeyedNoise(seed=7)</code></a>'
    assert (site / "play/race.html").read_text().count(link) == 1
    assert "<code>seed</code></p>" in (site / "play/race.html").read_text()
    noise = (site / "noise.html").read_text()
    assert "Noise of <code>KeyedNoise(seed)</code>" in noise  # not from its own description
    assert "Draws <code>KeyedNoise.gumbel</code>" in noise
    assert 'of a <a href="noise.html#argumbel.noise.KeyedNoise"><code>KeyedNoise</code></a>' in noise


def test_every_name_is_listed(finish: ModuleType, site: Path) -> None:
    page = site / "reference.html"
    page.write_text('<article><h1>Every name</h1><div data-names="noise"></div></article>')
    finish.finish(site, NAV)
    text = page.read_text()
    assert '<a href="noise.html#argumbel.noise.KeyedNoise"><code>KeyedNoise</code></a>' in text
    assert "<td>Noise of KeyedNoise(seed) (i.e. a key): 0.5.</td>" in text
    assert "gumbel</code>" not in text  # a method is found at its class
    page.write_text('<article><h1>Every name</h1><div data-names="nothing"></div></article>')
    with pytest.raises(ValueError, match="nothing"):
        finish.finish(site, NAV)


def test_contents_for_programs(finish: ModuleType, site: Path) -> None:
    finish.finish(site, NAV)
    assert (
        (site / "llms.txt").read_text()
        == """# argumbel

> a choice

## Start

- [argumbel](index.html): a choice
- [Noise](noise.html): What noise?

## Play

- [The race](play/race.html): Who KeyedNoise(seed=7) seed

## Every name

- [argumbel.noise.KeyedNoise](noise.html#argumbel.noise.KeyedNoise): Noise of KeyedNoise(seed) (i.e. a key): 0.5.
"""
    )
