"""Many trainings side by side, in processes, and one report that compares them."""

from __future__ import annotations

import json
import math
import multiprocessing
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from .comparison import table, write
from .recipes import RECIPES, Figure, Job, Recipe
from .run import Run

__all__ = ["sweep"]


def sweep(
    name: str,
    out: Path,
    *,
    data: Path | None = None,
    rows: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    steps: int | None = None,
    jobs: int = 1,
    threads: int = 1,
    listener: Callable[[Job, dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Train every row of the recipe ``name`` with every seed, ``jobs`` at a time, and compare them.

    Each training has a folder of its own, ``out/<row>/seed-<seed>``. One that has ended is not repeated, so a sweep
    that was stopped goes on where it was, and more rows or seeds can be added later. One whose numbers became infinite
    ends as failed, and the others go on.

    Args:
        data: where the images are, if the recipe needs some.
        rows: those to train; default all. The report has all that have ended.
        listener: gets each job and its result, those of earlier sweeps first.

    Returns:
        What ``out/sweep.json`` holds. Beside it lie ``table.md`` and ``report.html``.

    Raises:
        ValueError: an unknown recipe or row, numbers out of range, or ``out`` holds runs with other settings.
    """
    recipe = _recipe(name)
    for what, number in (("steps", steps), ("jobs", jobs), ("threads", threads)):
        if number is not None and number < 1:
            raise ValueError(f"{what} must be 1 or more; got {number}")
    for row in rows:
        if row not in recipe.rows:
            raise ValueError(f"rows of {name} are {', '.join(recipe.rows)}; got {row!r}")
    if recipe.data is None and data is not None:
        raise ValueError(f"recipe {name} takes no data; got {data}")
    if recipe.data is not None and data is None:
        raise ValueError(f"recipe {name} needs data, {recipe.data}: give it with --data PATH")
    wanted = [
        Job(name, row, recipe.rows[row], seed, steps or recipe.steps, out / _slug(row) / f"seed-{seed}", data, threads)
        for seed in dict.fromkeys(recipe.seeds if seeds is None else seeds)
        for row in rows or recipe.rows
    ]
    todo = []
    for job in wanted:
        result = _ended(job)
        if result is None:
            todo.append(job)
        elif listener is not None:
            listener(job, result)
    for job, result in _train_all(todo, jobs):
        if listener is not None:
            listener(job, result)
    summary = summarise(name, out, steps or recipe.steps)
    _write_json(out / "sweep.json", summary)
    (out / "table.md").write_text(table(recipe, summary) + "\n", encoding="utf-8")
    write(recipe, summary, out)
    return summary


def summarise(name: str, out: Path, steps: int) -> dict[str, Any]:
    """The runs of a sweep's folder, row by row, with mean and standard deviation over the seeds."""
    recipe = _recipe(name)
    rows = []
    for label in recipe.rows:
        runs = []
        for file in sorted((out / _slug(label)).glob("seed-*/result.json"), key=lambda f: int(f.parent.name[5:])):
            result = json.loads(file.read_text())
            if result["job"]["steps"] == steps:
                runs.append({"folder": file.parent.relative_to(out).as_posix(), **result})
        if runs:
            rows.append({"row": label, "runs": runs, **_statistics(recipe.figures, runs)})
    return {"recipe": name, "title": recipe.title, "steps": steps, "rows": rows}


def _statistics(figures: Sequence[Figure], runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    ended = [run for run in runs if "figures" in run]
    summary = {}
    for figure in figures:
        values = [run["figures"][figure.key] for run in ended]
        if values:
            spread = statistics.stdev(values) if len(values) > 1 else None
            summary[figure.key] = {"mean": statistics.fmean(values), "std": spread, "runs": len(values)}
    times = [run["milliseconds"] for run in ended]
    return {"figures": summary, "milliseconds": statistics.fmean(times) if times else None}


def _train_all(jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Each job with its result as it ends. Ctrl-C ends those under way with a checkpoint, where they have such."""
    if not jobs:
        return
    # Started afresh: a fork would copy the threads' locks of a process that has already computed.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
        try:
            futures = {pool.submit(_train, job): job for job in jobs}
            for future in as_completed(futures):
                result = future.result()
                if result is None:
                    raise KeyboardInterrupt
                yield futures[future], result
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _train(job: Job) -> dict[str, Any] | None:
    """Train one job and write ``result.json``; in a process of its own."""
    identity = _identity(job)
    try:
        outcome = RECIPES[job.recipe].train(job)
    except FloatingPointError as error:
        result: dict[str, Any] = {"job": identity, "failed": str(error)}
    else:
        if outcome is None:
            return None
        bad = [key for key, value in outcome.figures.items() if not math.isfinite(value)]
        milliseconds = 1000 * outcome.seconds / job.steps
        if bad:
            result = {"job": identity, "failed": f"{', '.join(bad)} became infinite or NaN"}
        else:
            result = {"job": identity, "figures": outcome.figures, "milliseconds": milliseconds}
    _write_json(job.folder / "result.json", result)
    return result


def _ended(job: Job) -> dict[str, Any] | None:
    """The result of a job that has ended before."""
    result = Run(job.folder).read_json("result.json")
    if result is not None and result["job"] != _identity(job):
        raise ValueError(
            f"{job.folder} holds a run with other settings: give --steps {result['job']['steps']} as before if that is "
            "what differs, or name another folder (--run)"
        )
    return result


def _identity(job: Job) -> dict[str, Any]:
    """What decides the result, as JSON has it; not where the data lie nor how many threads there are."""
    identity = {"recipe": job.recipe, "row": job.label, "seed": job.seed, "steps": job.steps, **job.settings}
    return json.loads(json.dumps(identity))


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Run(file.parent).write_json(file.name, content)


def _recipe(name: str) -> Recipe:
    if name not in RECIPES:
        raise ValueError(f"recipe must be one of {', '.join(RECIPES)}; got {name!r}")
    return RECIPES[name]


def _slug(label: str) -> str:
    """A row's name as a folder's: ``gumbel_rao(num_conditional=100)`` is ``gumbel_rao-num_conditional-100``."""
    return re.sub(r"[^\w.]+", "-", label).strip("-")
