"""The report of a sweep: a table, and curves with a band over the seeds, in one HTML file."""

from __future__ import annotations

import html
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .page import CSS, STYLE, embed
from .recipe import Figure, Recipe
from .run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

__all__ = ["cells", "table", "write"]

_COLOURS = ("#2463b4", "#d97a1d", "#2e8b57", "#b43a4e", "#7a5bb0", "#16899a", "#8a6d3b", "#5b6577")
_DASHES = ("-", "--", ":")


def cells(recipe: Recipe, summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of the table: each figure with its standard deviation over the seeds, and the published one."""
    head = ["estimator"]
    for figure in recipe.figures:
        head += [figure.title] + ["published"] * (figure.key in recipe.published)
    head += ["runs", "ms a step"]
    rows = []
    for row in summary["rows"]:
        failed = sum("failed" in run for run in row["runs"])
        line = [row["row"]]
        for figure in recipe.figures:
            line.append(_number(figure, row["figures"].get(figure.key)))
            if figure.key in recipe.published:
                line.append(recipe.published[figure.key].get(row["row"], ""))
        runs = f"{len(row['runs'])}" + f" ({failed} failed)" * (failed > 0)
        time = row["milliseconds"]
        rows.append([*line, runs, "" if time is None else f"{time:.3g}"])
    return head, rows


def table(recipe: Recipe, summary: dict[str, Any]) -> str:
    """The table of :func:`cells` in Markdown."""
    head, rows = cells(recipe, summary)
    rule = ["---", *["---:"] * (len(head) - 1)]
    body = [[f"`{row[0]}`", *row[1:]] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *body))


def write(recipe: Recipe, summary: dict[str, Any], out: Path) -> Path:
    """Write ``report.html`` into ``out``, and return its path."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        curves = embed(_curves(recipe, summary, out))
        picture = None if recipe.picture is None else recipe.picture(_first_runs(summary, out))
        own = "" if picture is None else embed(picture)
    page = out / "report.html"
    page.write_text(_page(recipe, summary, curves, own), encoding="utf-8")
    return page


def _first_runs(summary: dict[str, Any], out: Path) -> dict[str, Run]:
    """The first run of each row that did not fail."""
    return {
        row["row"]: Run(out / run["folder"])
        for row in summary["rows"]
        for run in reversed(row["runs"])
        if "figures" in run
    }


def _number(figure: Figure, value: dict[str, Any] | None) -> str:
    if value is None:
        return ""
    mean = f"{figure.sign * value['mean']:.{figure.digits}f}"
    return mean if value["std"] is None else f"{mean} ± {value['std']:.{figure.digits}f}"


def _curves(recipe: Recipe, summary: dict[str, Any], out: Path) -> Picture:
    from matplotlib.figure import Figure as Canvas

    picture = Canvas(figsize=(10.4, 3.4 * len(recipe.curves)), layout="constrained")
    axes = picture.subplots(len(recipe.curves), 1, squeeze=False)[:, 0]
    records = {
        row["row"]: [list(Run(out / run["folder"]).records()) for run in row["runs"] if "figures" in run]
        for row in summary["rows"]
    }
    for axis, curve in zip(axes, recipe.curves, strict=True):
        shown: list[float] = []
        for i, label in enumerate(recipe.rows):  # a row keeps its colour, also if other rows are missing
            points = _points(curve, records.get(label, []))
            if points:
                style = {"color": _COLOURS[i % len(_COLOURS)], "linestyle": _DASHES[i // len(_COLOURS) % len(_DASHES)]}
                shown += _draw(axis, points, label, style)
        if shown:
            room = 0.05 * (max(shown) - min(shown)) + 1e-9
            axis.set_ylim(min(shown) - room, max(shown) + room)
        axis.set(title=curve.title, xlabel="step")
        axis.margins(x=0.01)
        axis.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k" if x >= 1000 else f"{x:g}")
    if axes[0].lines:
        axes[0].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    return picture


def _points(curve: Figure, runs: Sequence[Sequence[dict[str, Any]]]) -> list[tuple[int, list[float]]]:
    """Each step with the values of all runs at this step."""
    kind, _, name = curve.key.partition("/")
    values: dict[int, list[float]] = {}
    for records in runs:
        for record in records:
            if record["kind"] == kind and name in record:
                values.setdefault(record["step"], []).append(curve.sign * record[name])
    return sorted(values.items())


def _draw(axis: Axes, points: Sequence[tuple[int, list[float]]], label: str, style: dict[str, Any]) -> list[float]:
    """Draw a line through the means and a band from lowest to highest. Returns the values that the axis should show."""
    steps = [step for step, _ in points]
    axis.plot(steps, [statistics.fmean(values) for _, values in points], label=label, **style)
    low, high = [min(values) for _, values in points], [max(values) for _, values in points]
    axis.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)
    # Values in the first tenth of the steps can be far from all other values.
    late = [i for i, step in enumerate(steps) if 10 * step >= steps[-1]]
    return [side[i] for side in (low, high) for i in late]


def _page(recipe: Recipe, summary: dict[str, Any], curves: str, picture: str) -> str:
    from .. import __version__

    head, rows = cells(recipe, summary)
    title = html.escape(recipe.title)
    heading = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    failures = [
        f"{row['row']}, seed {run['job']['seed']}: {run['failed']}"
        for row in summary["rows"]
        for run in row["runs"]
        if "failed" in run
    ]
    settings = "".join(
        f"<tr><td>{html.escape(row['row'])}</td><td>{html.escape(_settings(recipe.rows[row['row']]))}</td></tr>"
        for row in summary["rows"]
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: argumbel</title>
<style>{CSS}
th {{ text-align: left; padding: 5px 12px 5px 0; color: var(--soft); font-weight: 600; vertical-align: bottom; }}
.figures td {{ width: auto; color: var(--ink); font-variant-numeric: tabular-nums; }}
.settings td {{ width: auto; }}
</style>
</head>
<body><main>
<h1>{title}</h1>
<p>{html.escape(recipe.text)}</p>
<section><h2>Figures</h2>
<p>Mean and standard deviation over the seeds, after {summary["steps"]:,} steps. Times are for one training step, while
the other trainings of the sweep ran at the same time.</p>
<table class="figures"><tr>{heading}</tr>{body}</table>
{_list("Failed", failures)}</section>
<section><h2>Learning</h2><p>Means over the seeds; the bands go from the lowest to the highest seed.</p>
<img alt="Learning" src="{curves}"></section>
{_own(recipe, picture)}<section><h2>Settings</h2>
<table class="settings">{settings}</table>
{_list("What differs from the published protocol", recipe.differences)}
<p>{html.escape(recipe.source)}</p></section>
<footer>argumbel {html.escape(__version__)}</footer>
</main></body>
</html>
"""


def _own(recipe: Recipe, picture: str) -> str:
    """The section with the recipe's own picture."""
    if not picture:
        return ""
    title = html.escape(recipe.picture_title)
    return f"""<section><h2>{title}</h2><p>{html.escape(recipe.picture_text)}</p>
<img alt="{title}" src="{picture}"></section>
"""


def _list(title: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    return f"<h2>{title}</h2><ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>"


def _settings(settings: Mapping[str, Any]) -> str:
    words = {k: "-".join(map(str, v)) if isinstance(v, tuple) else v for k, v in settings.items() if k != "estimator"}
    return ", ".join(f"{name} {value}" for name, value in words.items())
