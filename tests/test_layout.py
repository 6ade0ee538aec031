"""The arrows of the import graph go one way, private names stay in their package, and files stay small."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "argumbel"
# Nothing imports what stands on a later line; packages on one line do not import each other, but for one (BESIDE).
ORDER = [
    {"_core"},
    {"kernels"},
    {"noise"},
    {"choice", "partition", "astar", "data", "tables"},
    {"reverse", "lazy"},
    {"relax", "subsets", "coupling", "linear"},
    {"sequences", "structures"},
    {"perturbation"},
    {"estimators", "distributions"},
    {"schedules", "nn", "plots"},
    {"experiments"},
    {"cli"},
]
RANK = {package: rank for rank, line in enumerate(ORDER) for package in line}
BESIDE = {("nn", "schedules")}
FILES = sorted(SOURCE.rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, str, str]]:
    """(package it is in, package it imports from, module or name imported), for imports within the library."""
    place = path.relative_to(SOURCE).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = place[: len(place) - node.level]
            parts = [*base, *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                whole = [*parts, alias.name]
                yield place[0], whole[0], ".".join(whole[1:]) or whole[0]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("argumbel"):
            pytest.fail(f"{path} imports by an absolute name")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_arrows(path: Path) -> None:
    if path == SOURCE / "__init__.py":
        return
    for own, other, _ in imports(path):
        allowed = other in (own, "__version__") or RANK[other] < RANK[own] or (own, other) in BESIDE
        assert allowed, f"{own} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_private_names_stay_in_their_package(path: Path) -> None:
    for own, other, name in imports(path):
        parts = [part for part in name.split(".") if part.startswith("_") and not part.startswith("__")]
        assert own == other or not parts, f"{own} imports {other}.{name}"


def test_files_are_small() -> None:
    long = []
    for path in FILES:
        limit = 300 if path.is_relative_to(SOURCE / "kernels") else 450
        count = len(path.read_text().splitlines())
        if count > limit:
            long.append(f"{path.relative_to(SOURCE)} has {count} lines, but the limit is {limit}")
    assert not long, "; ".join(long) + ": move one of its ideas into a file of its own"
