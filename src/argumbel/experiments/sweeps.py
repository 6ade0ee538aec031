"""Many trainings in parallel processes, and one report that compares them."""

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

from .._core.checks import count, integer, one_of
from .comparison import table, write
from .recipe import Figure, Job, Recipe
from .recipes import RECIPES
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
    """Train every row of a recipe with every seed, and compare them.

    Each training has its own folder, ``out/<row>/seed-<seed>``. A training that has ended is not repeated. So a sweep
    that was stopped can continue, and rows or seeds can be added later. A training whose numbers became infinite ends
    as failed, and the other trainings continue.

    Args:
        name: of the recipe, a key of ``RECIPES``.
        out: folder for the runs and the report.
        data: where the images are, if the recipe needs images of yours.
        rows: the rows to train; by default all. The report shows every row that has ended.
        seeds: the seeds; by default the recipe's.
        steps: the steps of each training; by default the recipe's.
        jobs: how many trainings run at the same time, each in its own process.
        threads: CPU threads of each training.
        listener: is called with each job and its result, first with the results of earlier sweeps.

    Returns:
        The content of ``out/sweep.json``. The files ``table.md`` and ``report.html`` are written too.

    Raises:
        ValueError: an unknown recipe or row, a number that is too small, or ``out`` holds runs with other settings.
    """
    recipe = _recipe(name)
    steps = recipe.steps if steps is None else count("steps", steps, least=1)
    jobs, threads = count("jobs", jobs, least=1), count("threads", threads, least=1)
    seeds = recipe.seeds if seeds is None else [integer("each of seeds", seed) for seed in seeds]
    for row in rows:
        if row not in recipe.rows:
            raise ValueError(
                f"rows of {name} must be among {', '.join(recipe.rows)}, but one is {row!r}; give rows of these"
            )
    if recipe.data is None and data is not None:
        raise ValueError(
            f"data must be left out for the recipe {name}, which needs none, but it is {data}; leave --data out"
        )
    if recipe.data is not None and data is None:
        raise ValueError(
            f"data of the recipe {name} must be {recipe.data}, but there is none; give it with --data PATH"
        )
    folders = {row: out / _folder_name(row) for row in rows or recipe.rows}
    wanted = [
        Job(name, row, recipe.rows[row], seed, steps, folder / f"seed-{seed}", data, threads)
        for seed in dict.fromkeys(seeds)
        for row, folder in folders.items()
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
    summary = summarise(name, out, steps)
    _write_json(out / "sweep.json", summary)
    (out / "table.md").write_text(table(recipe, summary) + "\n", encoding="utf-8")
    write(recipe, summary, out)
    return summary


def summarise(name: str, out: Path, steps: int) -> dict[str, Any]:
    """The runs in a sweep's folder, row by row, with mean and standard deviation over the seeds."""
    recipe = _recipe(name)
    rows = []
    for label in recipe.rows:
        runs = []
        for file in sorted(
            (out / _folder_name(label)).glob("seed-*/result.json"), key=lambda f: int(f.parent.name[5:])
        ):
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
    """Each job with its result, as soon as it ends. After Ctrl-C, running jobs write a checkpoint if they can."""
    if not jobs:
        return
    # Not forked: a fork would copy the locks of the threads of a process that has already computed.
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
    """Train one job, in its own process, and write ``result.json``."""
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
            f"the settings of {job.folder} must be those of this sweep, but it holds a run with other settings; give "
            f"--steps {result['job']['steps']} if the steps differ, or name another folder (--run)"
        )
    return result


def _identity(job: Job) -> dict[str, Any]:
    """What decides the result, as JSON. The place of the data and the number of threads do not belong to it."""
    identity = {"recipe": job.recipe, "row": job.label, "seed": job.seed, "steps": job.steps, **job.settings}
    return json.loads(json.dumps(identity))


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Run(file.parent).write_json(file.name, content)


def _recipe(name: str) -> Recipe:
    one_of("recipe", name, RECIPES)
    return RECIPES[name]


def _folder_name(label: str) -> str:
    """The folder of a row: ``gumbel_rao(num_conditional=100)`` has the folder ``gumbel_rao-num_conditional-100``."""
    return re.sub(r"[^\w.]+", "-", label).strip("-")
