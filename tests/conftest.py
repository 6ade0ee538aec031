"""What every test runs under: fixed seeds, memory that is NaN until written, and each backend where it asks for one."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# Before anyone imports Triton, which reads it then: without a GPU its kernels run in the interpreter.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

with warnings.catch_warnings():  # a machine without a compiler says so once, and still passes the tests
    warnings.filterwarnings("ignore", message="argumbel was installed without its compiled kernels")
    from argumbel import kernels
    from argumbel.kernels import cpu

from tests import heads, slow

BROWSER = Path(__file__).parent / "browser"

settings.register_profile("argumbel", derandomize=True, deadline=None, database=None, max_examples=60)
settings.register_profile("long", deadline=None, database=None, max_examples=20_000)  # by hand
settings.load_profile("argumbel")

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Tests of the site need a browser, so only who names their folder runs them: `make test-docs`."""
    return True if collection_path == BROWSER and not any(BROWSER.name in arg for arg in config.args) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`make test-fast` leaves out what slow.txt lists."""
    listed = slow.read()
    for item in items:
        if item.nodeid.partition("[")[0] in listed:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _seeds() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _validation() -> None:
    """torch.compile turns the validation of distributions off for whoever comes after; tests begin with it on."""
    torch.distributions.Distribution.set_default_validate_args(True)


@pytest.fixture(autouse=True)
def _subnormals() -> None:
    """Code that Inductor of PyTorch 2.4 compiles turns subnormal numbers off for whoever comes after (-ffast-math)."""
    torch.set_flush_denormal(False)


@pytest.fixture(autouse=True)
def _poison() -> Iterator[None]:
    """Memory from ``torch.empty`` is NaN (integers: their maximum), so a part that is never written fails."""
    fill, deterministic = (
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.are_deterministic_algorithms_enabled(),
    )
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = fill


@pytest.fixture(params=["reference", *(["native"] if cpu.library is not None else [])])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend of the public functions in turn: plain PyTorch, and the compiled kernels where there are any."""
    with kernels.use("reference" if request.param == "reference" else None):
        yield request.param


#: The instruction sets that this machine can run the C++ for.
PATHS = cpu.library.paths() if cpu.library is not None else ["reference"]


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """The C++ for each instruction set in turn."""
    with kernels.use(request.param):
        yield request.param


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """On one thread, and on several."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def by_triton() -> Iterator[None]:
    """Where there is no GPU, tensors of the CPU go to Triton's interpreter, but inside ``on_triton.exactly``."""
    if torch.cuda.is_available():
        yield
        return
    from argumbel.kernels.triton import noise

    assert noise.INTERPRETED
    with kernels.use("triton"):
        yield


@pytest.fixture(params=[4, 32, None], ids=lambda size: f"chunks of {size}")
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """A linear layer's chunks have so many items, whatever the number of rows (None: as it is)."""
    if request.param is not None:
        heads.set_chunk(monkeypatch, request.param)
    return request.param


@pytest.fixture
def chunks_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    heads.set_chunk(monkeypatch, 4)


@pytest.fixture
def plain_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line in an empty folder, on a terminal without colours that is 100 columns wide."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.chdir(tmp_path)
