"""RESULTS.md: targets first, then exactness, then every figure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from . import estimators, measure, vae
from .exactness import QUESTIONS, Finding, Question
from .measure import OURS, Entry, Row, Timing
from .registry import CASES, Case, Target

BUSY = 0.05  # others' share of the machine from which on times are not to be trusted
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
    others: float | None = None  # share of the machine that other processes used meanwhile
    quick: bool = False

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


def judge(rows: Iterable[Row], cases: Iterable[Case] = CASES) -> list[Judged]:
    known_cases = {case.name: case for case in cases}
    judged = []
    for row in rows:
        for target in known_cases[row.case].targets:
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


def _others(row: Row) -> list[str]:
    """All that could take part and are no floors."""
    return [e.name for e in row.entries[1:] if not e.floor and e.trouble != measure.absent(e.library)]


def markdown(results: Results, chart: str | None) -> str:
    parts = ["# Benchmark results", machine(results)]
    if chart:
        parts.append(f"![How many times as long as ours others take]({chart})")
    if results.rows or results.steps:
        parts.append(_targets(results))
    if results.findings:
        parts.append(exactness(results))
    if results.rows:
        parts.append(_figures(results))
    if results.overheads:
        parts.append(_overheads(results))
    if results.steps:
        parts.append(_steps(results))
    return "\n\n".join(parts) + "\n"


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


def machine(results: Results, command: str = "python -m benchmarks") -> str:
    lines = [f"- {name}: {value}" for name, value in results.machine.items()]
    if results.others is not None:
        lines.append(f"- other processes used {results.others:.0%} of it meanwhile")
    text = f"Written by `{command}`; `docs/benchmarks.md` tells how it measures.\n\n" + "\n".join(lines)
    if results.others is not None and results.others > BUSY:
        text += "\n\n**The machine was busy: these times are not to be relied on.**"
    text += "".join(f"\n\nNot measured: {trouble}" for trouble in results.troubles)
    if results.quick:
        text += "\n\n**A quick run: few samples, few draws.**"
    return text


def target_row(judged: Judged) -> tuple[str, ...]:
    return (
        judged.row.op,
        judged.row.size,
        f"{judged.target}",
        f"{judged.target.at_least:g}x",
        judged.trouble if judged.ratio is None else f"{number(judged.ratio)}x",
        {True: "reached", False: "**missed**", None: "not measured"}[judged.reached],
    )


def _targets(results: Results) -> str:
    rows = [target_row(judged) for judged in judge(results.rows)]
    for threads, steps in groupby(results.steps, key=lambda s: s.threads):
        ours, plain = list(steps)[:2]
        ratio = plain.seconds / ours.seconds
        reached = ratio >= vae.AT_LEAST or ours.share < vae.SMALL_SHARE
        rows.append(
            (
                "VAE training step",
                _threads(threads),
                plain.contestant,
                f"{vae.AT_LEAST}x, or sampling under {vae.SMALL_SHARE:.0%} of our step",
                f"{number(ratio)}x, sampling {ours.share:.1%}",
                "reached" if reached else "**missed**",
            )
        )
    return target_table(rows)


def target_table(rows: Sequence[tuple[str, ...]], more: str = "") -> str:
    met = sum(row[-1] == "reached" for row in rows)
    intro = (
        f"{met} of {len(rows)} reached. The ratio says how many times as long as ours the other takes; a ratio is only "
        f"given where our result has passed its check.{more}"
    )
    head = ("operation", "size", "against", "at least", "measured", "")
    return f"## Targets\n\n{intro}\n\n{table(head, rows, (3, 4))}"


def _threads(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}"


def contestant(library: str, name: str, versions: dict[str, str]) -> tuple[str, str]:
    return f"{library} {versions.get(library, '')}".strip(), f"**{name}**" if library == OURS else f"`{name}`"


def exactness(results: Results, questions: Iterable[Question] = QUESTIONS) -> str:
    asked = [q for q in questions if any(f.question == q.name for f in results.findings)]
    found = {(f.library, f.contestant, f.question): f for f in results.findings}
    contestants = list(dict.fromkeys((f.library, f.contestant) for f in results.findings))
    matrix = []
    for library, name in contestants:
        cells = [found.get((library, name, q.name)) for q in asked]
        marks = [MARKS[cell.verdict] if cell else "" for cell in cells]
        matrix.append((*contestant(library, name, results.versions), *marks))
    parts = [
        "## Exactness",
        "Wrong: a right law would give a count like this less than once in a million times. Undecided: too few draws, "
        "in the time given, for the fault to show.",
        table(("library", "way", *(q.name for q in asked)), matrix),
    ]
    for question in asked:
        details = [
            (
                *contestant(f.library, f.contestant, results.versions),
                f.measured.replace("|", "\\|"),
                f.expected,
                "" if f.p_value is None else f"{f.p_value:.1g}",
                MARKS[f.verdict],
            )
            for f in results.findings
            if f.question == question.name
        ]
        head = ("library", "way", "measured", "expected", "p-value", "")
        parts += [f"### {question.name.capitalize()}: {question.text}", table(head, details, (2, 3, 4))]
    return "\n\n".join(parts)


def _figures(results: Results) -> str:
    parts = [
        "## Times and memory",
        "Time: median of a call, quartiles in brackets. Memory: what a warm call needs at its peak, in megabytes, "
        "beyond its inputs and its result. Ratio: times as long as ours. Floors (*in italics*) do less than the "
        "operation.",
    ]
    for op, rows in groupby(results.rows, key=lambda r: r.op):
        parts.append(f"### {op}")
        for row in rows:
            parts.append(f"**{row.size}**")
            if row.failure:
                parts.append(f"Our check fails, so there is nothing to compare: `{row.failure}`")
                continue
            lines = []
            for entry in row.entries:
                library, name = contestant(entry.library, entry.name, results.versions)
                name = f"*{name}*" if entry.floor else name
                if entry.timing is None:
                    lines.append((library, name, entry.trouble or "not measured", "", "", "", ""))
                    continue
                t, ratio = entry.timing, row.ratio(entry.name)
                lines.append(
                    (
                        library,
                        name,
                        f"{duration(t.median)} [{duration(t.lower)}, {duration(t.upper)}]",
                        str(t.samples),
                        number(t.median / row.elements * 1e9),
                        "" if ratio is None else f"{number(ratio)}x",
                        megabytes(entry.memory),
                    )
                )
            head = ("library", "way", "time", "samples", "ns / element", "ratio", "memory, MB")
            parts.append(table(head, lines, range(2, 7)))
    return "\n\n".join(parts)


def _overheads(results: Results) -> str:
    rows = [
        (
            f"*{o.estimator}*" if o.estimator == estimators.LOSS else f"`{o.estimator}`",
            str(o.classes),
            str(o.samples),
            o.failure or "not measured" if o.seconds is None else duration(o.seconds),
            "" if o.ratio is None else f"{number(o.ratio)}x",
        )
        for o in results.overheads
    ]
    e = estimators
    intro = (
        f"A loss, its value and its gradient: f is a decoder of {e.LATENTS} latents to {e.PIXELS} pixels by way of "
        f"{e.HIDDEN} units, batches of {e.BATCH}; the gradient is that of the logits and of the decoder's weights. "
        "Samples: those that f is evaluated at for each image. The last column is the time over that of f by itself, "
        "forward and backward on one sample an image."
    )
    head = ("estimator", "classes", "samples", "time", "over f")
    return f"## Gradient estimators\n\n{intro}\n\n{table(head, rows, range(1, 5))}"


def _steps(results: Results) -> str:
    rows = [
        (
            *contestant(s.library, s.contestant, results.versions),
            str(s.threads),
            number(1 / s.seconds),
            duration(s.seconds),
            f"{s.share:.1%}",
        )
        for s in results.steps
    ]
    head = ("library", "step", "threads", "steps / s", "time", "sampling")
    intro = (
        "The categorical VAE of `argumbel train --dataset mnist` beside a script of the same model. Sampling: what one "
        "Gumbel-softmax sample of (100, 20, 10) and its gradient take by themselves, as a share of the step."
    )
    return f"## A training step\n\n{intro}\n\n{table(head, rows, range(2, 6))}"
