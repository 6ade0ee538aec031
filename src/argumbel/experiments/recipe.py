"""What a recipe is: the rows of its table, how a row is trained, and what the report shows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture

__all__ = ["Figure", "Job", "Outcome", "Recipe", "recorded"]


@dataclass(frozen=True)
class Job:
    """One training: one row of the table with one seed."""

    recipe: str
    label: str
    settings: Mapping[str, Any]
    seed: int
    steps: int
    folder: Path
    data: Path | None = None
    threads: int = 1


@dataclass(frozen=True)
class Outcome:
    """The results by name, and the seconds that the training steps took."""

    figures: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class Figure:
    """A number in the results or in the records of a run: its ``key``, and how it is shown."""

    key: str
    title: str
    digits: int = 2
    sign: int = 1


@dataclass(frozen=True)
class Recipe:
    """A protocol: the rows of its table, how a row is trained, and what is shown.

    Args:
        title: of the report.
        text: the protocol in words.
        rows: the settings of each row of the table.
        train: trains a job and writes ``metrics.jsonl`` into the job's folder. It returns None if it was interrupted;
            called again with the same job, it continues or starts again.
        figures: the columns of the table. Their keys are names in :class:`Outcome`.
        curves: what is drawn. Their keys are ``kind/name``, of the records in ``metrics.jsonl``.
        steps: of each training.
        seeds: of the trainings of each row.
        data: what ``--data`` must be, in words. None if the recipe needs no data.
        published: the published results, ``{figure: {row: text}}``.
        differences: what differs from the published protocol, in sentences.
        source: of the protocol.
        picture: draws a picture for the report from one run of each row, or None: ``picture({row: run})``. The picture
            goes into the section that ``picture_title`` and ``picture_text`` describe. It returns None if there is
            nothing to draw.
    """

    title: str
    text: str
    rows: Mapping[str, Mapping[str, Any]]
    train: Callable[[Job], Outcome | None]
    figures: tuple[Figure, ...]
    curves: tuple[Figure, ...]
    steps: int
    seeds: tuple[int, ...] = (0, 1, 2)
    data: str | None = None
    published: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    differences: tuple[str, ...] = ()
    source: str = ""
    picture: Callable[[Mapping[str, Run]], Picture | None] | None = None
    picture_title: str = ""
    picture_text: str = ""


def recorded(job: Job, learn: Callable[..., tuple[dict[str, float], float]], **more: Any) -> Outcome:
    """Call a function that learns from the start, and write the records that it passes to ``record``."""
    torch.set_num_threads(job.threads)
    job.folder.mkdir(parents=True, exist_ok=True)
    with Run(job.folder).metrics.open("w") as file:
        figures, seconds = learn(
            **job.settings,
            **more,
            seed=job.seed,
            steps=job.steps,
            record=lambda entry: print(json.dumps(entry), file=file),
        )
    return Outcome(figures, seconds)
