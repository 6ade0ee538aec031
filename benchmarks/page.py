"""RESULTS.md: targets first, then exactness, then every figure, with the instruction sets side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from . import chart, estimators, vae
from .exactness import QUESTIONS
from .measure import Entry, Row
from .quiet import BUSY
from .registry import CASES
from .report import (
    MARKS_OF_TARGETS,
    QUICK,
    RATIO,
    SETS,
    Judged,
    Results,
    common,
    contestant,
    duration,
    exactness,
    in_order,
    judge,
    megabytes,
    number,
    table,
    written,
)

FOLDER = "results"  # beside the page: one file of results for each instruction set


def stored(folder: Path) -> list[Results]:
    """The results of all instruction sets that have been measured, in the order of ``SETS``."""
    paths = [folder / FOLDER / f"{kernels}.json" for kernels in SETS]
    return [Results.load(path) for path in paths if path.is_file()]


def store(results: Results, folder: Path) -> Path:
    """In the place of older results of the same instruction set."""
    path = folder / FOLDER / f"{results.kernels}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    results.save(path)
    return path


def write(folder: Path) -> Path:
    """The page and its picture, of all that is stored."""
    runs, page, picture = stored(folder), folder / "RESULTS.md", folder / "chart.png"
    drawn = chart.draw(runs, picture)
    page.write_text(markdown(runs, picture.name if drawn else None))
    return page


def markdown(runs: Sequence[Results], picture: str | None) -> str:
    parts = ["# Benchmark results", written("python -m benchmarks"), _machines(runs)]
    if picture:
        parts.append(f"![How many times as long as ours others take]({picture})")
    if any(run.rows or run.steps for run in runs):
        parts.append(_targets(runs))
    if any(run.findings for run in runs):
        parts.append(exactness(runs, QUESTIONS))
    if any(run.rows for run in runs):
        parts.append(_figures(runs))
    if any(run.overheads for run in runs):
        parts.append(_overheads(runs))
    if any(run.steps for run in runs):
        parts.append(_steps(runs))
    return "\n\n".join(parts) + "\n"


def _heads(runs: Sequence[Results], *columns: str) -> list[str]:
    """The columns of each run, with its instruction set where there are several."""
    return [f"{column}, {SETS[run.kernels]}" if len(runs) > 1 else column for run in runs for column in columns]


def _machines(runs: Sequence[Results]) -> str:
    about = [_about(run) for run in runs]
    names = dict.fromkeys(name for one in about for name in one)
    rows = [(name, *(one.get(name, "") for one in about)) for name in names]
    text = table(("", *(f"{SETS[run.kernels]} (`{run.kernels}`)" for run in runs)), rows)
    for run in runs:
        if run.others is not None and run.others > BUSY:
            text += (
                f"\n\n**{SETS[run.kernels]}: the machine was busy. Other processes took {run.others:.0%} of the cores' "
                "time, so these times are not to be relied on.**"
            )
        text += "".join(f"\n\nNot measured ({SETS[run.kernels]}): {trouble}" for trouble in run.troubles)
    return f"{text}\n\n{QUICK}" if any(run.quick for run in runs) else text


def _about(run: Results) -> dict[str, str]:
    others = {} if run.others is None else {"other processes": f"{run.others:.0%} of the cores' time"}
    return {**{name: value for name, value in run.machine.items() if name != "kernels"}, **others}


# -------------------------------------------------------------------------------------------------------------- targets


def _targets(runs: Sequence[Results]) -> str:
    judged = [{(j.row.case, j.target): j for j in judge(run.rows, kernels=run.kernels)} for run in runs]
    rows = []
    for case in CASES:
        for target in case.targets:
            found = [one.get((case.name, target)) for one in judged]
            if any(found):
                sets = ", ".join(SETS[kernels] for kernels in target.kernels)
                wanted = f"{target.at_least:g}x{f' ({sets})' if sets else ''}"
                rows.append((case.op.name, str(case.size), f"{target}", wanted, *(_cells(found))))
    rows += _step_targets(runs)
    met = []
    for i, run in enumerate(runs):
        marks = [row[5 + 2 * i] for row in rows if row[5 + 2 * i]]
        met.append(f"{SETS[run.kernels]}: {marks.count(MARKS_OF_TARGETS[True])} of {len(marks)} reached.")
    head = ["operation", "size", "against", "at least"]
    for column in _heads(runs, "measured"):
        head += [column, ""]
    right = [3, *range(4, len(head), 2)]
    more = " A target with the name of an instruction set holds for this set alone."
    return f"## Targets\n\n{' '.join(met)} {RATIO}{more}\n\n{table(head, rows, right)}"


def _cells(found: Sequence[Judged | None]) -> Iterator[str]:
    for judged in found:
        yield from (judged.measured, judged.mark) if judged else ("", "")


def _step_targets(runs: Sequence[Results]) -> list[tuple[str, ...]]:
    rows = []
    for threads in sorted({step.threads for run in runs for step in run.steps}):
        cells, against = list[str](), ""
        for run in runs:
            steps = [step for step in run.steps if step.threads == threads][:2]
            if len(steps) < 2:
                cells += ["", ""]
                continue
            ours, plain = steps
            ratio, against = plain.seconds / ours.seconds, plain.contestant
            reached = ratio >= vae.AT_LEAST or ours.share < vae.SMALL_SHARE
            cells += [f"{number(ratio)}x, sampling {ours.share:.1%}", MARKS_OF_TARGETS[reached]]
        wanted = f"{vae.AT_LEAST}x, or sampling under {vae.SMALL_SHARE:.0%} of our step"
        rows.append(("VAE training step", f"{threads} thread{'s' if threads > 1 else ''}", against, wanted, *cells))
    return rows


# -------------------------------------------------------------------------------------------------------------- figures


def _figures(runs: Sequence[Results]) -> str:
    parts = [
        "## Times and memory",
        "Time: median of a call, quartiles in brackets. Memory: what a warm call needs at its peak, in megabytes, "
        "beyond its inputs and its result. Ratio: times as long as ours. Floors (*in italics*) do less than the "
        f"operation. `{FOLDER}/` has the same figures as JSON, with the number of samples.",
    ]
    versions = common([run.versions for run in runs])
    rows = [{row.case: row for row in run.rows} for run in runs]
    cases = in_order({name: row for one in rows for name, row in one.items()}.values())
    for op, group in groupby(cases, key=lambda row: row.op):
        parts.append(f"### {op}")
        for row in group:
            parts.append(f"**{row.size}**")
            parts += _case(runs, [one.get(row.case) for one in rows], versions)
    return "\n\n".join(parts)


def _case(runs: Sequence[Results], rows: Sequence[Row | None], versions: dict[str, str]) -> list[str]:
    failed = [
        f"Our check fails{f' ({SETS[run.kernels]})' if len(runs) > 1 else ''}, so there is nothing to compare: "
        f"`{row.failure}`"
        for run, row in zip(runs, rows, strict=True)
        if row and row.failure
    ]
    entries = [{e.name: e for e in row.entries} if row else {} for row in rows]
    lines = []
    for entry in {name: e for one in reversed(entries) for name, e in one.items()}.values():
        library, name = contestant(entry.library, entry.name, versions)
        cells = [_times(row, one.get(entry.name)) for row, one in zip(rows, entries, strict=True)]
        lines.append((library, f"*{name}*" if entry.floor else name, *(cell for four in cells for cell in four)))
    head = ("library", "way", *_heads(runs, "time", "ns / element", "ratio", "memory, MB"))
    return [*failed, *([table(head, lines, range(2, len(head)))] if lines else [])]


def _times(row: Row | None, entry: Entry | None) -> tuple[str, str, str, str]:
    if row is None or entry is None:
        return "", "", "", ""
    if entry.timing is None:
        return entry.trouble or "not measured", "", "", ""
    t, ratio = entry.timing, row.ratio(entry.name)
    return (
        f"{duration(t.median)} [{duration(t.lower)}, {duration(t.upper)}]",
        number(t.median / row.elements * 1e9),
        "" if ratio is None else f"{number(ratio)}x",
        megabytes(entry.memory),
    )


def _overheads(runs: Sequence[Results]) -> str:
    def cells(o: estimators.Overhead) -> tuple[str, ...]:
        seconds = o.failure or "not measured" if o.seconds is None else duration(o.seconds)
        return seconds, "" if o.ratio is None else f"{number(o.ratio)}x"

    def name(o: estimators.Overhead) -> tuple[str, ...]:
        estimator = f"*{o.estimator}*" if o.estimator == estimators.LOSS else f"`{o.estimator}`"
        return estimator, str(o.classes), str(o.samples)

    e = estimators
    intro = (
        f"A loss, its value and its gradient: f is a decoder of {e.LATENTS} latents to {e.PIXELS} pixels by way of "
        f"{e.HIDDEN} units, batches of {e.BATCH}; the gradient is that of the logits and of the decoder's weights. "
        "Samples: those that f is evaluated at for each image. The last column is the time over that of f by itself, "
        "forward and backward on one sample an image."
    )
    head = ("estimator", "classes", "samples", *_heads(runs, "time", "over f"))
    rows = _side_by_side([run.overheads for run in runs], name, cells)
    return f"## Gradient estimators\n\n{intro}\n\n{table(head, rows, range(1, len(head)))}"


def _steps(runs: Sequence[Results]) -> str:
    versions = common([run.versions for run in runs])

    def cells(s: vae.Step) -> tuple[str, ...]:
        return number(1 / s.seconds), duration(s.seconds), f"{s.share:.1%}"

    def name(s: vae.Step) -> tuple[str, ...]:
        return *contestant(s.library, s.contestant, versions), str(s.threads)

    intro = (
        "The categorical VAE of `argumbel train --dataset mnist` beside a script of the same model. Sampling: what one "
        "Gumbel-softmax sample of (100, 20, 10) and its gradient take by themselves, as a share of the step."
    )
    head = ("library", "step", "threads", *_heads(runs, "steps / s", "time", "sampling"))
    rows = _side_by_side([run.steps for run in runs], name, cells)
    return f"## A training step\n\n{intro}\n\n{table(head, rows, range(2, len(head)))}"


def _side_by_side(
    parts: Sequence[Sequence[Any]], name: Callable[[Any], tuple[str, ...]], cells: Callable[[Any], tuple[str, ...]]
) -> list[tuple[str, ...]]:
    """A row for each name, with the cells of every run that has one."""
    found = [{name(one): cells(one) for one in part} for part in parts]
    width = len(next(iter(next(filter(None, found)).values())))
    names = dict.fromkeys(own for part in found for own in part)
    return [(*own, *(cell for part in found for cell in part.get(own, ("",) * width))) for own in names]
