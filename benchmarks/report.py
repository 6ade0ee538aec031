"""What a run found out, how it is stored, what it says of targets, and how its figures are written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import estimators, measure, vae
from .exactness import Finding, Question
from .measure import OURS, Entry, Row, Timing
from .registry import CASES, Case, Target

#: What the kernels of each instruction set are called on the page, in the order of its columns.
SETS = {
    "v4": "AVX-512",
    "v3": "AVX2",
    "v2": "x86-64",
    "neon": "NEON",
    "generic": "generic",
    "reference": "plain PyTorch",
}
RATIO = (
    "The ratio says how many times as long as ours the other takes; a ratio is only given where our result has passed "
    "its check."
)
QUICK = "**A quick run: few samples, few draws.**"
MARKS_OF_TARGETS = {True: "reached", False: "**missed**", None: "not measured"}
MARKS = {"pass": "right", "fail": "**wrong**", "undecided": "undecided", "cannot": "cannot"}


@dataclass
class Results:
    """Everything a run found out; what was not asked for is empty."""

    machine: dict[str, str]
    versions: dict[str, str]
    rows: list[Row] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    overheads: list[estimators.Overhead] = field(default_factory=list)
    steps: list[vae.Step] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)  # what could not be measured, and why
    others: float | None = None  # share of the cores' time that other processes took meanwhile
    quick: bool = False

    @property
    def kernels(self) -> str:
        """The instruction set of our kernels: "v4", "v3", "v2", "generic" or "reference"."""
        return self.machine["kernels"].split()[0]

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        data = json.loads(path.read_text())
        for name in {"rows", "replays"} & data.keys():
            data[name] = [_row(row) for row in data[name]]
        data["findings"] = [Finding(**finding) for finding in data["findings"]]
        data["overheads"] = [estimators.Overhead(**overhead) for overhead in data.get("overheads", [])]
        data["steps"] = [vae.Step(**step) for step in data["steps"]]
        return cls(**data)


def _row(data: dict[str, Any]) -> Row:
    for entry in data["entries"]:
        entry["timing"] = entry["timing"] and Timing(**entry["timing"])
    return Row(**data | {"entries": [Entry(**entry) for entry in data["entries"]]})


@dataclass(frozen=True)
class Judged:
    """A target and what was measured: a ratio, or None with the reason."""

    row: Row
    target: Target
    ratio: float | None
    trouble: str = ""

    @property
    def reached(self) -> bool | None:
        return None if self.ratio is None else self.ratio >= self.target.at_least

    @property
    def measured(self) -> str:
        return self.trouble if self.ratio is None else f"{number(self.ratio)}x"

    @property
    def mark(self) -> str:
        return MARKS_OF_TARGETS[self.reached]


def judge(rows: Iterable[Row], cases: Iterable[Case] = CASES, kernels: str = "") -> list[Judged]:
    """The targets that hold for these kernels; stored rows of cases that are no more have none."""
    targets = {case.name: [target for target in case.targets if target.holds(kernels)] for case in cases}
    judged = []
    for row in rows:
        for target in targets.get(row.case, []):
            if row.failure:
                judged.append(Judged(row, target, None, "our check fails"))
                continue
            ratios = {name: row.ratio(name) for name in target.against or _others(row)}
            known = [ratio for ratio in ratios.values() if ratio is not None]
            missing = [name for name, ratio in ratios.items() if ratio is None]
            if missing or not known:  # the fastest of some is not the fastest of all
                judged.append(Judged(row, target, None, f"no time of {', '.join(missing or ['others'])}"))
            else:
                judged.append(Judged(row, target, min(known)))
    return judged


def in_order(rows: Iterable[Row]) -> list[Row]:
    """As in the registry; stored rows of cases that are no more come last."""
    places = {case.name: place for place, case in enumerate(CASES)}
    return sorted(rows, key=lambda row: places.get(row.case, len(places)))


def _others(row: Row) -> list[str]:
    """All that could take part and are no floors."""
    return [e.name for e in row.entries[1:] if not e.floor and e.trouble != measure.absent(e.library)]


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> str:
    """A Markdown table; the columns ``right`` are aligned to the right."""
    rule = ["---:" if i in set(right) else "---" for i in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *rows])


def number(x: float) -> str:
    """Three digits, no exponent."""
    return f"{x:,.0f}" if x >= 100 else f"{x:.{1 if x >= 10 else 2}f}" if x >= 0.095 else f"{x:.2g}"


def duration(seconds: float) -> str:
    return f"{number(seconds * 1e3)} ms" if seconds >= 1e-3 else f"{number(seconds * 1e6)} µs"


def megabytes(count: int | None) -> str:
    return "" if count is None else "< 1" if count < 1e6 else number(count / 1e6)


def machine(results: Results, command: str) -> str:
    text = f"{written(command)}\n\n" + "\n".join(f"- {name}: {value}" for name, value in results.machine.items())
    text += "".join(f"\n\nNot measured: {trouble}" for trouble in results.troubles)
    if results.quick:
        text += f"\n\n{QUICK}"
    return text


def written(command: str) -> str:
    return f"Written by `{command}`; `docs/benchmarks.md` tells how it measures."


def target_row(judged: Judged) -> tuple[str, ...]:
    return (
        judged.row.op,
        judged.row.size,
        f"{judged.target}",
        f"{judged.target.at_least:g}x",
        judged.measured,
        judged.mark,
    )


def target_table(rows: Sequence[tuple[str, ...]], more: str = "") -> str:
    met = sum(row[-1] == "reached" for row in rows)
    intro = f"{met} of {len(rows)} reached. {RATIO}{more}"
    head = ("operation", "size", "against", "at least", "measured", "")
    return f"## Targets\n\n{intro}\n\n{table(head, rows, (3, 4))}"


def contestant(library: str, name: str, versions: dict[str, str]) -> tuple[str, str]:
    return f"{library} {versions.get(library, '')}".strip(), f"**{name}**" if library == OURS else f"`{name}`"


def common(versions: Sequence[dict[str, str]]) -> dict[str, str]:
    """The versions that are the same in all."""
    return {name: version for name, version in versions[0].items() if all(v.get(name) == version for v in versions)}


def exactness(runs: Sequence[Results], questions: Iterable[Question]) -> str:
    """One run, or one of each instruction set side by side."""
    versions = common([run.versions for run in runs])
    findings = [(run, finding) for run in runs for finding in run.findings]
    asked = [q for q in questions if any(f.question == q.name for _, f in findings)]
    contestants = list(dict.fromkeys((f.library, f.contestant) for _, f in findings))
    matrix = []
    for library, name in contestants:
        own = [(run, f) for run, f in findings if (f.library, f.contestant) == (library, name)]
        matrix.append((*contestant(library, name, versions), *(_marks(own, q.name) for q in asked)))
    parts = [
        "## Exactness",
        "Wrong: a right law would give a count like this less than once in a million times. Undecided: too few draws, "
        "in the time given, for the fault to show.",
        table(("library", "way", *(q.name for q in asked)), matrix),
    ]
    several = ("kernels",) if len(runs) > 1 else ()
    for question in asked:
        details = [
            (
                *contestant(library, name, versions),
                *(SETS[run.kernels] for _ in several),
                f.measured.replace("|", "\\|"),
                f.expected,
                "" if f.p_value is None else f"{f.p_value:.1g}",
                MARKS[f.verdict],
            )
            for library, name in contestants
            for run, f in findings
            if (f.library, f.contestant, f.question) == (library, name, question.name)
        ]
        head = ("library", "way", *several, "measured", "expected", "p-value", "")
        right = range(2 + len(several), 5 + len(several))
        parts += [f"### {question.name.capitalize()}: {question.text}", table(head, details, right)]
    return "\n\n".join(parts)


def _marks(findings: Sequence[tuple[Results, Finding]], question: str) -> str:
    """One mark where all runs agree."""
    marks = [(run, MARKS[f.verdict]) for run, f in findings if f.question == question]
    if len({mark for _, mark in marks}) <= 1:
        return marks[0][1] if marks else ""
    return ", ".join(f"{SETS[run.kernels]}: {mark}" for run, mark in marks)
