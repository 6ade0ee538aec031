"""What docs/finish.py does to the pages of a site."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


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
        "index.html": "<p>\n    first\n</p>",
        "noise.html": "<p>noise</p>",
        "play/race.html": "<p>race</p>",
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
    finish.finish(site)
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
    finish.finish(site)  # once more changes nothing
    assert sorted(site.rglob("*")) == before


def test_a_redirect_to_nowhere_is_an_error(finish: ModuleType, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish, "MOVED", {"old.html": "nothing.html"})
    with pytest.raises(FileNotFoundError, match=r"nothing\.html"):
        finish.finish(site)


def test_space_goes_but_not_from_code(finish: ModuleType) -> None:
    html = '<div>\n\n    <p>a\n    b</p>\n  <pre>  x\n\n    y</pre>\n  <pre><span class="n">z</span></pre></div>'
    assert finish.without_space(html) == "<div>\n<p>a\nb</p>\n<pre>  x\n\n    y</pre>\n<pre>z</pre></div>"


def test_what_nobody_reads_goes(finish: ModuleType, site: Path) -> None:
    finish.finish(site)
    assert (site / "assets/javascripts/bundle.js").read_text() == "code"
    assert [path.name for path in (site / "assets").rglob("*") if path.is_file()] == ["bundle.js"]


def test_the_search_index_is_the_same_from_files_and_from_a_server(finish: ModuleType, site: Path) -> None:
    (site / "search").mkdir()
    page = {"location": "noise.html", "title": "Noise", "text": "<p>The <b>law</b></p>  <pre>code</pre>"}
    name = {
        "location": "noise.html#argumbel.noise.gumbel",
        "title": "gumbel",
        "text": "<p>Noise.</p> <ul> <li><code>x</code></li> </ul> <pre>code</pre>",
    }
    index = site / "search/search_index.json"
    index.write_text(json.dumps({"config": {}, "docs": [page, name]}))
    finish.finish(site)
    assert [section["text"] for section in json.loads(index.read_text())["docs"]] == [
        "<p>The law</p> code",
        "<p>Noise.</p>",
    ]
    assert index.with_suffix(".js").read_text() == "var __index = " + index.read_text()
