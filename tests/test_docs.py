"""Every example a reader can copy is run: doctests of all modules, and the Python blocks of README.md and of docs/."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

import argumbel

ROOT = Path(__file__).parent.parent
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
TRAINED = {"docs/tutorials/categorical-vae.md": 0.1}  # a long training turns a rounding into another run
INTERNAL = ("_core", "cli", "kernels")  # documented by README.md in their folder, or by --help
MODULES = sorted(
    ["argumbel", *(module.name for module in pkgutil.walk_packages(argumbel.__path__, "argumbel.", lambda name: None))]
)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Examples may write files and draw from the global generator; neither outlives the test."""
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
    torch.set_printoptions(profile="default")
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name: str) -> None:
    if name.startswith("argumbel.kernels.triton"):
        pytest.importorskip("triton", minversion="3.6")
    assert doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS).failed == 0


@pytest.mark.parametrize("page", PAGES)
def test_code_blocks(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block of `text` below a block of Python is what the block prints; a tutorial shows all that is printed."""
    monkeypatch.setenv("MPLBACKEND", "agg")
    text = (ROOT / page).read_text()
    blocks = re.findall(r"^```python$", text, re.MULTILINE)
    document = Sybil(parsers=[PythonCodeBlockParser(doctest_optionflags=doctest.ELLIPSIS)]).parse(ROOT / page)
    examples = list(document.examples())
    assert len(examples) >= len(blocks)
    for example in examples:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            example.evaluate()
        shown = re.match(r"\s*```text\n(.*?)^```$", text[example.region.end :], re.MULTILINE | re.DOTALL)
        if shown or page.startswith("docs/tutorials/"):
            agree(printed.getvalue(), shown[1] if shown else "", rel=TRAINED.get(page, 0.0))


def agree(printed: str, shown: str, *, rel: float = 0.0) -> None:
    """The same text; numbers with decimals to two units of the last digit, since processors round differently."""
    number = re.compile(r"-?\d+(?:\.(\d*))?(?:e([+-]\d+))?")
    assert number.sub("#", printed) == number.sub("#", shown)
    for one, other in zip(number.finditer(printed), number.finditer(shown), strict=True):
        units = 0 if one[1] is None else 2.01 * 10.0 ** (int(one[2] or 0) - len(one[1]))
        assert float(one[0]) == pytest.approx(float(other[0]), abs=units, rel=rel), (printed, shown)


def test_numbers_agree_to_their_last_digit() -> None:
    agree("bias 0.21, 3 draws\n", "bias 0.22, 3 draws\n")
    agree("of 90 codes\n", "of 85 codes\n", rel=0.1)
    for other in ("bias 0.24, 3 draws\n", "bias 0.21, 4 draws\n", "bias 0.21\n"):
        with pytest.raises(AssertionError):
            agree("bias 0.21, 3 draws\n", other)


@pytest.mark.parametrize("page", [page for page in PAGES if page != "README.md"])
def test_code_fits_into_its_box(page: str) -> None:
    """On a screen of 1280 pixels a box of the site shows 87 columns."""
    blocks = re.findall(r"^```\w+$(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    assert [line for block in blocks for line in block.splitlines() if len(line) > 87] == []


@pytest.mark.parametrize("name", MODULES)
def test_doctests_fit_into_their_box(name: str) -> None:
    """A box of a docstring has smaller letters, and shows 105 columns."""
    if name.startswith("argumbel.kernels.triton"):
        pytest.importorskip("triton", minversion="3.6")
    shown = doctest.DocTestFinder().find(importlib.import_module(name))
    lines = [line for test in shown for example in test.examples for line in example.source.splitlines()]
    assert [line for line in lines if len(">>> " + line) > 105] == []


@pytest.mark.parametrize(
    "name",
    [
        *("noise", "choice", "subsets", "relax", "distributions", "estimators", "reverse", "coupling", "partition"),
        *("lazy", "linear", "astar", "nn", "plots", "data", "sequences"),
    ],
)
def test_public_names_have_an_example_that_runs(name: str) -> None:
    module = importlib.import_module(f"argumbel.{name}")
    public = {n: getattr(module, n) for n in module.__all__ if callable(getattr(module, n))}
    # A tuple of results is shown by the function that returns it, a protocol by the one that takes it.
    wanted = {
        name
        for name, thing in public.items()
        if not (isinstance(thing, type) and (issubclass(thing, tuple) or getattr(thing, "_is_protocol", False)))
    }
    shown = {n for n in wanted if ">>>" in (public[n].__doc__ or "")}
    assert shown == wanted


@pytest.mark.parametrize("name", [m.name for m in pkgutil.iter_modules(argumbel.__path__) if m.name not in INTERNAL])
def test_every_module_has_a_page(name: str) -> None:
    assert f"::: argumbel.{name}" in (ROOT / "docs" / f"{name}.md").read_text()


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    pages = {page.removeprefix("docs/") for page in PAGES} - {"README.md"}
    assert set(re.findall(r"[\w/-]+\.md", navigation)) == pages


@pytest.mark.parametrize("picture", sorted((ROOT / "docs").rglob("*.png")), ids=lambda path: path.stem)
def test_pictures_are_small(picture: Path) -> None:
    """`python docs/pictures.py` leaves every picture there is with 256 colours."""
    assert picture.stat().st_size < 120_000


def test_every_line_of_the_decision_table_runs() -> None:
    page = (ROOT / "docs" / "which.md").read_text()
    names: dict[str, object] = {}
    exec(re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[0], names)
    rows = re.findall(r"^\| .* \| `(.*)` \| \[.*\]\(.*\) \|$", page, re.MULTILINE)
    assert len(rows) == len(re.findall(r"^\| (?!to do|---)", page, re.MULTILINE)) >= 40
    for line in rows:
        assert eval(line, names) is not None


FRONT = (ROOT / "docs" / "index.md").read_text()
RESULTS = (ROOT / "benchmarks" / "RESULTS.md").read_text()


def test_the_speed_on_the_front_page_is_measured() -> None:
    target = r"^\| categorical \| 64 x 32,000 \| Categorical\(logits=\)\.sample\(\) \|[^|]*\| (\d+)x \| reached \|"
    assert re.findall(target, RESULTS, re.MULTILINE) == re.findall(r"\*\*(\d+)×\*\* as fast", FRONT)


def test_the_exactness_on_the_front_page_is_measured() -> None:
    table = RESULTS.partition("\n## Exactness\n")[2].partition("\n### ")[0]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in re.findall(r"^\|.*\|$", table, re.MULTILINE)[2:]]
    ours = [answer for library, _, *answers in rows if library.startswith("argumbel") for answer in answers if answer]
    (theirs,) = (
        [answer for answer in row[2:] if answer] for row in rows if row[1] == "`Categorical(logits=).sample()`"
    )
    assert f"**{ours.count('right')} of {len(ours)}**" in FRONT
    assert f"passes {theirs.count('right')}\nof its {len(theirs)}." in FRONT.replace(" of", "\nof")


def test_the_number_of_tests_on_the_front_page_is_no_more_than_there_are(request: pytest.FixtureRequest) -> None:
    collected = request.session.items
    absent = {path.name for path in (ROOT / "tests").glob("test_*.py")} - {item.path.name for item in collected}
    chosen = request.config.option.keyword or request.config.option.markexpr
    if chosen or len(absent) > 5:  # a few files need libraries that are not always there
        pytest.skip("only a run of all tests knows how many there are")
    (number,) = re.findall(r"\*\*([\d,]+)\*\* tests", FRONT)
    assert len(collected) >= int(number.replace(",", ""))


def test_readme_opens_as_the_front_page_does() -> None:
    readme = " ".join((ROOT / "README.md").read_text().split())
    sentence = re.search(r"A PyTorch library .*?\.\*\*", " ".join(FRONT.split()))
    assert sentence is not None
    assert sentence[0] in readme
    doors = re.findall(r"^- ## \[(.*)\]\((.*)\)$", FRONT, re.MULTILINE)
    assert len(doors) == 4
    for title, page in doors:
        assert f"**[{title}](docs/{page})**" in readme
