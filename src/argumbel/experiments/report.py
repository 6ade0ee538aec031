"""The report of a run: one HTML file that contains its pictures, made from the files of the run folder."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..choice import categorical
from .data import Images
from .evaluate import code_usage
from .model import CategoricalVAE
from .page import BLUE, CSS, GREY, INK, ORANGE, STYLE, embed
from .run import Config, Run, stream

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["main_figures", "write"]


def main_figures(evaluation: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Rows (name, nats, explanation) of the main results. They are log-likelihoods, so higher is better."""

    def nats(name: str) -> str:
        entry = evaluation[name]
        return (
            f"{entry['mean']:.2f} ± {entry['stderr']:.2f}" if math.isfinite(entry["stderr"]) else f"{entry['mean']:.2f}"
        )

    rows = [("test ELBO", nats("elbo"), "discrete latents, exact KL")]
    bounds = sorted((int(name.removeprefix("bound_")), name) for name in evaluation if name.startswith("bound_"))
    rows += [(f"bound on log p(x), {m} samples", nats(name), "importance-weighted") for m, name in bounds]
    rows.append(("latents ignored", nats("baseline"), "independent pixels"))
    return rows


def write(run: Run, images: Images | None = None) -> Path:
    """Write ``report.html`` of a trained and evaluated run, and return its path.

    Args:
        run: a run that has an ``evaluation.json``.
        images: the images of the run, if they are loaded already.

    Raises:
        ValueError: the run was not evaluated.
    """
    import matplotlib

    config = run.config()
    evaluation = run.read_json("evaluation.json")
    if evaluation is None:
        raise ValueError(
            f"run must be evaluated, but {run.path} has no evaluation.json; run argumbel evaluate {run.path} first"
        )
    images = config.images() if images is None else images
    model, state = run.trained(images)
    records = list(run.records())
    with matplotlib.rc_context(STYLE):
        pictures = {
            "curves": _curves(records, evaluation, state["step"]),
            "reconstructions": _reconstructions(model, images, seed=config.seed),
            "samples": _samples(model, images, seed=config.seed),
            "codes": _codes(model, images, evaluation),
        }
        embedded = {name: embed(figure) for name, figure in pictures.items()}
    run.report.write_text(_page(config, images, evaluation, records, state, embedded), encoding="utf-8")
    return run.report


def _curves(records: Sequence[dict[str, Any]], evaluation: dict[str, Any], best_step: int) -> Figure:
    from matplotlib.figure import Figure

    train = [r for r in records if r["kind"] == "train"]
    valid = [r for r in records if r["kind"] == "valid"]
    figure = Figure(figsize=(10.4, 6.2), layout="constrained")
    grid = figure.add_gridspec(2, 3, height_ratios=(1.45, 1.0))
    axes = [figure.add_subplot(grid[0, :]), *(figure.add_subplot(grid[1, i]) for i in range(3))]

    top = axes[0]
    _line(top, train, "elbo", BLUE, "training objective")
    _line(top, valid, "elbo", ORANGE, "validation ELBO, discrete latents")
    floor = evaluation["baseline"]["mean"]
    top.axhline(floor, color=GREY, linestyle="--", linewidth=1.1, label="latents ignored (test images)")
    top.plot([best_step], [_best(valid)], "o", color=ORANGE, markersize=6, label=f"kept: step {best_step:,}")
    values = [r["elbo"] for r in (*train, *valid)] + [floor]
    # The first steps can be far below all later ones: the axis starts a little below the model without latents.
    low, high = max(min(values), floor - 0.6 * (max(values) - floor) - 1.0), max(values)
    top.set_ylim(low - 0.06 * (high - low), high + 0.07 * (high - low))
    top.set(title="Evidence lower bound", ylabel="nats per image", xlabel="step")
    top.legend(loc="center right")

    for axis, name, title in ((axes[1], "log_likelihood", "Reconstruction"), (axes[2], "kl", "KL to the prior")):
        _line(axis, train, name, BLUE, "training")
        _line(axis, valid, name, ORANGE, "validation")
        axis.set(title=title, ylabel="nats per image", xlabel="step")
        axis.legend(loc="lower right")
    _line(axes[3], train, "temperature", INK, "temperature")
    axes[3].set(title="Temperature", xlabel="step")
    axes[3].set_ylim(bottom=0.0)
    for axis in axes:
        axis.margins(x=0.01)
        axis.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k" if x >= 1000 else f"{x:g}")
    return figure


def _line(axis: Axes, records: Iterable[dict[str, Any]], name: str, colour: str, label: str) -> None:
    points = [(r["step"], r[name]) for r in records if name in r]
    axis.plot([x for x, _ in points], [y for _, y in points], color=colour, label=label)


def _best(valid: Sequence[dict[str, Any]]) -> float:
    return max((r["elbo"] for r in valid), default=math.nan)


@torch.no_grad()
def _reconstructions(model: CategoricalVAE, images: Images, *, seed: int) -> Figure:
    columns = 16
    x = images.test[: 2 * columns]
    generator = torch.Generator().manual_seed(stream(seed, "report/reconstructions"))
    z = categorical(model.encode(x), generator=generator)
    means = torch.sigmoid(model.decode(F.one_hot(z, model.classes).float()))
    pairs = [
        torch.stack((a, b), 1).flatten(0, 1)
        for a, b in zip(x.float().split(columns), means.split(columns), strict=True)
    ]
    rows = []
    for pair in pairs:  # each block is a row of inputs above the row of their reconstructions
        rows += [pair[0::2], pair[1::2]]
    return _grid(rows, images.shape, groups=2)


@torch.no_grad()
def _samples(model: CategoricalVAE, images: Images, *, seed: int) -> Figure:
    columns, lines = 16, 6
    generator = torch.Generator().manual_seed(stream(seed, "report/samples"))
    z = torch.randint(model.classes, (columns * lines, model.latents), generator=generator)
    means = torch.sigmoid(model.decode(F.one_hot(z, model.classes).float()))
    return _grid(list(means.split(columns)), images.shape, groups=1)


def _grid(rows: Sequence[Tensor], shape: tuple[int, int], *, groups: int) -> Figure:
    """Rows of images as one picture, dark on white, with a wider gap after every ``groups`` rows."""
    from matplotlib.figure import Figure

    height, width = shape
    gap = max(1, height // 9)
    columns = max(len(row) for row in rows)
    lines = []
    for i, row in enumerate(rows):
        line = torch.zeros(height, columns * (width + gap) - gap)
        for j, image in enumerate(row):
            line[:, j * (width + gap) : j * (width + gap) + width] = image.reshape(shape)
        if i:
            wide = 2 * gap if groups > 1 and i % groups == 0 else gap if groups == 1 else max(1, gap // 3)
            lines.append(torch.zeros(wide, line.shape[1]))
        lines.append(line)
    canvas = torch.cat(lines)
    figure = Figure(figsize=(10.4, 10.4 * canvas.shape[0] / canvas.shape[1]))
    axis = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axis.imshow(canvas.numpy(), cmap="gray_r", vmin=0.0, vmax=1.0, interpolation="nearest", aspect="auto")
    axis.set_axis_off()
    return figure


def _codes(model: CategoricalVAE, images: Images, evaluation: dict[str, Any]) -> Figure:
    from matplotlib.figure import Figure

    usage, _ = code_usage(model, images.test)
    latents, classes = usage.shape
    figure = Figure(figsize=(10.4, max(2.8, min(7.0, 0.21 * latents + 1.3))), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.7, 0.8, 0.8), sharey=True)
    image = left.imshow(usage.numpy(), aspect="auto", cmap="Blues", vmin=0.0, interpolation="nearest")
    left.set(title="Mean posterior probability", xlabel="class", ylabel="latent")
    left.grid(False)
    if classes <= 20:
        left.set_xticks(range(classes))
    if latents <= 32:
        left.set_yticks(range(latents))
    figure.colorbar(image, ax=left, shrink=0.9, pad=0.02)
    middle.barh(range(latents), evaluation["perplexity"], color=BLUE, height=0.7)
    middle.set(title="Perplexity", xlabel=f"classes in use, 1 to {classes}", xlim=(0.0, classes))
    right.barh(range(latents), evaluation["kl_per_latent"], color=ORANGE, height=0.7)
    right.set(title="KL to the prior", xlabel=f"nats, 0 to log {classes} = {math.log(classes):.2f}")
    right.set_xlim(0.0, math.log(classes))
    for axis in (middle, right):
        axis.grid(False, axis="y")
        axis.xaxis.get_major_locator().set_params(nbins=4)
    return figure


def _kl(config: Config) -> Iterable[str]:
    yield config.kl
    if config.prior_tau:
        yield f"prior temperature {config.prior_tau:g}"
    if config.kl_warmup:
        yield f"weight rising over {config.kl_warmup:,} steps"


def _value(text: str) -> str:
    """A number in large type, and its standard error in small type."""
    mean, sign, error = text.partition(" ± ")
    return html.escape(mean) + (f"<i> ± {html.escape(error)}</i>" if sign else "")


def _page(
    config: Config,
    images: Images,
    evaluation: dict[str, Any],
    records: Sequence[dict[str, Any]],
    state: dict[str, Any],
    pictures: dict[str, str],
) -> str:
    from .. import __version__

    rates = [r["steps_per_second"] for r in records if r["kind"] == "train"]
    rate = f"{sorted(rates)[len(rates) // 2]:,.0f}" if rates else "none"
    gain = evaluation["elbo"]["mean"] - evaluation["baseline"]["mean"]
    tiles = [
        ("tile" if i < len(main_figures(evaluation)) - 1 else "tile plain", *row)
        for i, row in enumerate(main_figures(evaluation))
    ]
    tiles.append(("tile plain", "steps per second", rate, "median over the training"))
    cards = "".join(
        f'<div class="{kind}"><span>{html.escape(what)}</span><b>{_value(value)}</b>'
        f"<small>{html.escape(why)}</small></div>"
        for kind, what, value, why in tiles
    )
    settings = [
        ("images", images.describe()),
        (
            "binarisation",
            "as given" if images.binary and config.dataset not in ("digits", "mnist") else config.binarize,
        ),
        ("latents", f"{config.latents} of {config.classes} classes"),
        ("hidden sizes", ", ".join(map(str, config.hidden)) or "none"),
        ("estimator", config.estimator),
        ("KL", ", ".join(_kl(config))),
        ("temperature", config.schedule),
        ("optimiser", f"{config.optimizer}, {config.lr:g} {config.lr_schedule}, weight decay {config.weight_decay:g}"),
        ("batch and steps", f"{config.batch} x {max((r['step'] for r in records), default=0):,}"),
        ("seed", str(config.seed)),
        ("precision", config.precision),
        ("evaluated", f"{evaluation['images']:,} test images, weights of step {state['step']:,}"),
    ]
    cells = [f"<td>{html.escape(a)}</td><td>{html.escape(b)}</td>" for a, b in settings]
    table = "".join(f"<tr>{''.join(cells[i : i + 2])}</tr>" for i in range(0, len(cells), 2))

    def section(title: str, text: str, picture: str) -> str:
        return f'<section><h2>{title}</h2><p>{text}</p><img alt="{title}" src="{pictures[picture]}"></section>'

    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(config.dataset)}, {html.escape(config.estimator)}: argumbel</title>
<style>{CSS}</style>
</head>
<body><main>
<h1>Categorical VAE on {html.escape(config.dataset)}</h1>
<p>{config.latents} latents of {config.classes} classes, trained with {html.escape(config.estimator)}. Figures are nats
per test image, with the standard error over images; higher is better. The latents add {gain:.2f} nats.</p>
<div class="tiles">{cards}</div>
{
        section(
            "Learning",
            "The training objective uses the samples of the estimator, so it may not be a bound. The validation ELBO "
            "has discrete latents. The weights with the best validation ELBO are kept.",
            "curves",
        )
    }
{
        section(
            "Reconstructions",
            "Test images (upper row of each pair), and the decoder's mean for one discrete draw of their latents "
            "(lower row).",
            "reconstructions",
        )
    }
{section("Samples from the prior", "The decoder's mean for latents drawn uniformly.", "samples")}
{
        section(
            "Codes in use",
            "The posterior probability of each class of each latent, averaged over the test images. A latent that is "
            "independent of the image has a KL of 0, and all its classes are used equally.",
            "codes",
        )
    }
<section><h2>Settings</h2><table>{table}</table></section>
<footer>argumbel {html.escape(__version__)}</footer>
</main></body>
</html>
"""
