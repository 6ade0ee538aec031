"""The recipe of CONTRIBUTING.md for a new operation is followed to the letter: its code runs, and passes its own tests.

A block of code there names its file beside its language; it runs here among the names that the file has.
"""

from __future__ import annotations

import ctypes
import importlib
import re
import shutil
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from argumbel import kernels
from argumbel.kernels import cpu, operator

from . import on_triton, test_kernels

ROOT = Path(__file__).parent.parent
CPU = "src/argumbel/kernels/cpu"
BLOCKS = re.findall(r"^ *```\w+ (\S+)\n(.*?)^ *```$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE | re.DOTALL)


def code_for(file: str) -> str:
    return "\n".join(textwrap.dedent(code) for name, code in BLOCKS if name == file)


def follow(file: str, folder: Path, **imported: Any) -> dict[str, Any]:
    """The names of a file, with what the recipe adds to it."""
    module = ".".join(Path(file.removeprefix("src/")).with_suffix("").parts)
    names = {**vars(importlib.import_module(module)), **imported}
    place = folder / f"{module}.py"  # Triton reads the source of its kernels
    place.write_text(code_for(file))
    exec(compile(place.read_text(), place, "exec"), names)
    return names


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What is in ``kernels/race.py`` then. PyTorch takes an operator but once, so it has a namespace of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operator, "NAMESPACE", "argumbel_contributing")
        names = follow("src/argumbel/kernels/race.py", tmp_path_factory.mktemp("race"))
        patch.setattr(kernels.race, "gumbel_min", names["gumbel_min"], raising=False)
        yield names


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_reference(recipe: dict[str, Any], tmp_path: Path) -> None:
    follow("tests/test_kernels.py", tmp_path)["test_law_of_gumbel_min"]("reference")
    torch.library.opcheck(recipe["gumbel_min"].registered, test_kernels.operators()["gumbel_max"])


LIBRARY = """
#define ARGUMBEL_ARCH contributing
#include "race.h"
#include "threads.cpp"
namespace argumbel {{ namespace contributing {{ namespace recipe {{
{function}
}} }} }}
using namespace argumbel;
extern "C" int64_t gumbel_min(const void* data, int64_t rows, int64_t items, int64_t row_stride, Dtype dtype,
                              uint64_t seed, const int64_t* row_seeds, const int64_t* row_ids, const int64_t* item_ids,
                              int64_t items_row_stride, int threads, void* values, int64_t* indices) {{
    return contributing::recipe::gumbel_min({{data, rows, items, row_stride, dtype}},
                                            {{seed, row_ids, item_ids, items_row_stride, row_seeds}},
                                            threads, values, indices);
}}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Step 3 in C++, without Python.h, which would need nanobind; beside it what ``kernels.use`` asks of a library."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    folder = tmp_path_factory.mktemp("cpu")
    (folder / "library.cpp").write_text(LIBRARY.format(function=code_for(f"{CPU}/race.h")))
    command = [compiler, "-std=c++20", "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-pthread", f"-I{ROOT / CPU}"]
    subprocess.run([*command, "library.cpp", "-o", "library.so"], cwd=folder, check=True)
    function = ctypes.CDLL(str(folder / "library.so")).gumbel_min
    number, address = ctypes.c_int64, ctypes.c_void_p
    function.argtypes = [address, *[number] * 3, ctypes.c_int, number]
    function.argtypes += [*[address] * 3, number, ctypes.c_int, address, address]
    function.restype = number
    return SimpleNamespace(gumbel_min=function, paths=list, active=str, use=str)


@pytest.mark.parametrize("dtype", test_kernels.SINGLE)
def test_the_cpp(
    recipe: dict[str, Any],
    library: SimpleNamespace,
    threads: int,
    dtype: torch.dtype,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (own,) = re.findall(r"X\(gumbel_min, (.*)\) \\", code_for(f"{CPU}/operations.h"))
    assert f"gumbel_min(Matrix x, Key key, int threads, {own}) {{" in code_for(f"{CPU}/race.h")
    monkeypatch.setattr(cpu, "library", library)
    monkeypatch.setattr(recipe["gumbel_min"], "cpu", recipe["_min_cpu"])
    names = follow("tests/test_kernels.py", tmp_path)
    with kernels.use(None):
        assert kernels.explain(recipe["gumbel_min"], torch.zeros(2, 3), (1, None, None))["cpu"] == "runs"
        names["test_law_of_gumbel_min"]("compiled here")
        names["test_gumbel_min_is_the_reference_to_the_bit"]("compiled here", threads, dtype)


@pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")
def test_triton(recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", minversion="3.6")
    from argumbel.kernels import triton
    from argumbel.kernels.triton import noise

    kernel = follow("src/argumbel/kernels/triton/race.py", tmp_path, tile=noise.tile, within=noise.within)
    monkeypatch.setattr(triton, "gumbel_min", kernel["gumbel_min"], raising=False)
    monkeypatch.setattr(recipe["gumbel_min"], "triton", True)
    cases_for_min = follow("tests/test_kernels.py", tmp_path)["cases_for_min"]
    names = follow("tests/test_triton.py", tmp_path, SHAPES=on_triton.SHAPES, cases_for_min=cases_for_min)
    with kernels.use(None if torch.cuda.is_available() else "triton"):
        names["test_gumbel_min_is_the_reference_to_the_bit"](torch.float32)
