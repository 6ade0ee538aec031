"""Which tests `make test-fast` leaves out: those that slow.txt lists.

`make slow` measures all tests and writes the list again: the tests with the cheapest cases stay, until they fill the
budget. For one new slow test, add a line by hand.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

LIST = Path(__file__).with_name("slow.txt")
BUDGET = 120.0  # seconds of one core: on two cores about a minute, and the workers need some time to start


def read() -> set[str]:
    """The tests of the list, as ``tests/test_choice.py::test_shapes``: a test with all its parameters."""
    return set(LIST.read_text().split())


def choose(times: dict[str, list[float]], budget: float) -> list[str]:
    """The tests that are left out, from the seconds of each case of each test."""
    slow, total = [], 0.0
    for test, cases in sorted(times.items(), key=lambda entry: sum(entry[1]) / len(entry[1])):
        total += sum(cases)
        if total > budget:
            slow.append(test)
    return sorted(slow)


def main(junit: str) -> None:
    """Write the list from the XML that ``pytest --junitxml`` wrote."""
    times = defaultdict(list)
    for case in ElementTree.parse(junit).iter("testcase"):
        file = case.attrib["classname"].replace(".", "/") + ".py"
        times[f"{file}::{case.attrib['name'].partition('[')[0]}"].append(float(case.attrib["time"]))
    LIST.write_text("\n".join(choose(times, BUDGET)) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
