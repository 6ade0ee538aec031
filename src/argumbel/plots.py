"""Pictures that explain the relaxation, and a picture that compares estimators.

Every function returns a ``matplotlib.figure.Figure``; nothing is shown or saved.

    y = softmax((logits + G) / tau),        G standard Gumbel

The functions need the extra ``plot`` (``pip install "argumbel[plot]"``). They draw without ``pyplot``, so they hold no
global state, open no window and work on a machine without a display.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._core.checks import count
from .distributions import RelaxedOneHotCategorical
from .noise import gumbel
from .relax import gumbel_softmax

try:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Polygon
    from matplotlib.ticker import LogLocator, NullLocator
except ImportError as error:  # pragma: no cover - the message is all there is to it
    raise ImportError(
        'matplotlib must be installed for argumbel.plots, but it is not; pip install "argumbel[plot]"'
    ) from error

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .estimators import Report

__all__ = ["estimator_report", "expectations", "simplex"]

# Okabe and Ito's palette: readers of every kind of colour vision can tell the colours apart.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666")
_INK, _FAINT = "#222222", "#9A9A9A"
# Density goes from white to a grey that leaves the coloured points legible on top of it.
_DENSITY = LinearSegmentedColormap.from_list("density", ["#FFFFFF", "#E9E9EC", "#B4B5BD", "#6F717D"])
# Corners of an upright triangle with sides of length 1: class 0 left, class 1 right, class 2 on top.
_CORNERS = [[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]]  # numbers, which no mode at import time gets into


def _checked_taus(taus: Sequence[float]) -> list[float]:
    values = [float(t) for t in taus]
    if not values or not all(math.isfinite(t) and t > 0 for t in values):
        raise ValueError(
            f"taus must be one or more finite numbers above 0, but they are {values}; leave out tau = 0, at which the "
            "relaxed choice is one-hot and has no density"
        )
    return values


def _checked_logits(logits: Any, default: Sequence[float], classes: int | None) -> Tensor:
    x = torch.as_tensor(default if logits is None else logits, dtype=torch.float64, device="cpu").detach()
    wanted = "a vector of at least two" if classes is None else f"a vector of {classes}"
    if x.dim() != 1 or x.numel() < 2 or (classes is not None and x.numel() != classes) or not bool(x.isfinite().all()):
        raise ValueError(f"logits must be {wanted} finite numbers, but they are {x.tolist()}; pass such a vector")
    return x


def _text(tau: float) -> str:
    return rf"$\tau$ = {tau:g}"


def simplex(
    taus: Sequence[float] = (0.1, 0.5, 1.0, 5.0),
    *,
    logits: Tensor | Sequence[float] | None = None,
    labels: Sequence[str] = ("a", "b", "c"),
    num_samples: int = 600,
    generator: torch.Generator | None = None,
) -> Figure:
    """Samples ``softmax((logits + G) / tau)`` and their exact density on the triangle of three classes, one per tau.

    A corner of the triangle is a class. A point is a relaxed choice, and its colour is the class it is nearest to, its
    argmax. All triangles show the *same* noise, so a point keeps its colour while a larger tau moves it from the
    corners (tau -> 0: the discrete choice) to the middle. The share of each colour, written at the corners, is
    therefore the same in all triangles, and it estimates ``softmax(logits)``: the relaxation does not change which
    class wins. Shading is the exact log density of ``RelaxedOneHotCategorical``, on one scale for all triangles.

    Args:
        taus: one or more finite numbers above 0; one triangle each.
        logits: three finite numbers, ``(3,)``; need not be normalised. Default: log of (0.5, 0.3, 0.2).
        labels: names of the three classes, in the order of ``logits``: left, right, top.
        num_samples: points in each triangle, at least 1.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        A figure with one axes per tau and a colour bar.

    Raises:
        ValueError: a tau that is not finite and above 0; logits that are not three finite numbers; labels that are not
            three; ``num_samples`` below 1.
        TypeError: ``num_samples`` is not an integer.

    Example:
        >>> from argumbel import plots
        >>> figure = plots.simplex([0.1, 1.0], num_samples=100, generator=torch.Generator().manual_seed(0))
        >>> [axes.get_title() for axes in figure.axes[:2]]
        ['$\\\\tau$ = 0.1', '$\\\\tau$ = 1']
        >>> figure.savefig("simplex.png")

    Source: Maddison, Mnih and Teh 2017, figure 2 and equation 10 (the density).
    """
    taus = _checked_taus(taus)
    num_samples = count("num_samples", num_samples, least=1)
    x = _checked_logits(logits, [math.log(p) for p in (0.5, 0.3, 0.2)], classes=3)
    if len(labels) != 3:
        raise ValueError(f"labels must be three names, one for each class, but they are {list(labels)}; name each once")

    noise = gumbel((num_samples, 3), generator=generator, dtype=torch.float64)
    winners = (x + noise).argmax(-1)
    shares = torch.bincount(winners, minlength=3).double() / num_samples

    # The density on a square grid, left blank outside the triangle. Barycentric coordinates: [a b] = [corners] y.
    pixels = 240
    ax_a = torch.linspace(0, 1, pixels, dtype=torch.float64)
    ax_b = torch.linspace(0, math.sqrt(3) / 2, pixels, dtype=torch.float64)
    a, b = torch.meshgrid(ax_a, ax_b, indexing="xy")
    top = b / _CORNERS[2][1]
    right = a - top / 2
    y = torch.stack([1 - right - top, right, top], -1)
    # Outside points and edges (where the density is 0 or infinite) take the nearest inner value; a clip path cuts
    # them off at the triangle's edge without a staircase.
    y = y.clamp(min=0.5 / pixels)
    y = y / y.sum(-1, keepdim=True)

    figure = Figure(figsize=(2.3 * len(taus) + 0.7, 2.45), dpi=150, layout="constrained")
    axes_row: list[Axes] = list(figure.subplots(1, len(taus), squeeze=False)[0])
    image = None
    for axes, tau in zip(axes_row, taus, strict=True):
        log_density = RelaxedOneHotCategorical(torch.tensor(tau, dtype=torch.float64), logits=x).log_prob(y)
        image = axes.imshow(
            log_density.numpy(), extent=(0, 1, 0, math.sqrt(3) / 2), origin="lower", cmap=_DENSITY, vmin=-3, vmax=3,
            interpolation="bilinear",
        )  # fmt: skip
        outline = Polygon(_CORNERS, closed=True, fill=False, edgecolor=_INK, linewidth=1.1, joinstyle="round")
        axes.add_patch(outline)
        image.set_clip_path(outline)

        points = gumbel_softmax(x.expand(num_samples, 3), tau, noise=noise) @ torch.tensor(
            _CORNERS, dtype=torch.float64
        )
        axes.scatter(
            points[:, 0].numpy(), points[:, 1].numpy(), s=9, linewidths=0.3, edgecolors="white", alpha=0.8,
            c=[_COLORS[k] for k in winners.tolist()], zorder=3, clip_on=False,
        )  # fmt: skip
        for k, (label, (left, up)) in enumerate(zip(labels, _CORNERS, strict=True)):
            axes.annotate(
                f"{label}  {shares[k]:.2f}", (left, up), xytext=(0, 6 if k == 2 else -6), textcoords="offset points",
                ha="center", va="bottom" if k == 2 else "top", color=_COLORS[k], weight="bold", fontsize=9.5,
            )  # fmt: skip
        axes.set_title(_text(tau), fontsize=12, color=_INK, pad=5)
        axes.set_xlim(-0.16, 1.16)
        axes.set_ylim(-0.14, math.sqrt(3) / 2 + 0.13)
        axes.set_aspect("equal")
        axes.axis("off")
    assert image is not None
    bar = figure.colorbar(image, ax=axes_row, shrink=0.62, aspect=18, pad=0.01, extend="both", ticks=[-3, 0, 3])
    bar.set_label("log density", fontsize=9, color=_INK)
    bar.ax.tick_params(labelsize=8, colors=_INK)
    return figure


def expectations(
    taus: Sequence[float] = (0.1, 0.5, 1.0, 10.0),
    *,
    logits: Tensor | Sequence[float] | None = None,
    num_samples: int = 20_000,
    num_rows: int = 2,
    generator: torch.Generator | None = None,
) -> Figure:
    """Bars of ``E[y]`` (first row) and of single ``y = softmax((logits + G) / tau)`` (other rows), one column per tau.

    The first column is the categorical variable itself: its probabilities, then one-hot draws. Near tau = 0 the relaxed
    variable has almost the expectation of the categorical, and its samples are almost one-hot. As tau grows, samples
    become smooth and the expectation moves away from the probabilities (black lines) to the uniform: this is the bias
    of the relaxation. A row of samples shows *one* noise vector, so the tallest bar (dark) is the same class in the
    whole row; only its lead becomes smaller.

    Args:
        taus: one or more finite numbers above 0; one column each, after the column of the categorical.
        logits: two or more finite numbers, ``(n,)``. Default: seven classes.
        num_samples: draws averaged for each expectation, at least 1.
        num_rows: rows of single samples, at least 1.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        A figure of ``1 + num_rows`` rows and ``1 + len(taus)`` columns.

    Raises:
        ValueError: a tau that is not finite and above 0; logits that are not a vector of two or more finite numbers;
            ``num_samples`` or ``num_rows`` below 1.
        TypeError: ``num_samples`` or ``num_rows`` is not an integer.

    Example:
        >>> from argumbel import plots
        >>> figure = plots.expectations([0.5, 5.0], num_samples=1000, generator=torch.Generator().manual_seed(0))
        >>> len(figure.axes)
        9
        >>> figure.savefig("expectations.png")

    Source: Jang, Gu and Poole 2017, figure 1.
    """
    taus = _checked_taus(taus)
    num_samples, num_rows = count("num_samples", num_samples, least=1), count("num_rows", num_rows, least=1)
    x = _checked_logits(logits, [math.log(p) for p in (0.10, 0.06, 0.24, 0.34, 0.04, 0.15, 0.07)], classes=None)
    n = x.numel()

    noise = gumbel((num_rows + num_samples, n), generator=generator, dtype=torch.float64)
    shown, averaged = noise[:num_rows], noise[num_rows:]
    winners = (x + shown).argmax(-1)
    columns = [("categorical", x.softmax(-1), torch.eye(n, dtype=x.dtype)[winners])]
    for tau in taus:
        mean = gumbel_softmax(x.expand_as(averaged), tau, noise=averaged).mean(0)
        columns.append((_text(tau), mean, gumbel_softmax(x.expand_as(shown), tau, noise=shown)))

    figure = Figure(figsize=(1.75 * len(columns) + 0.5, 1.25 * (1 + num_rows) + 0.45), dpi=150, layout="constrained")
    grid = figure.subplots(1 + num_rows, len(columns), squeeze=False, sharex=True, sharey="row")
    probabilities = columns[0][1]
    top = math.ceil(10 * max(float(mean.max()) for _, mean, _ in columns)) / 10
    for column, (title, mean, samples) in enumerate(columns):
        grid[0][column].set_title(title, fontsize=11.5, color=_INK, pad=7)
        for row, heights in enumerate([mean, *samples]):
            axes = grid[row][column]
            colors = [_COLORS[0]] * n
            if row > 0:
                colors = [_COLORS[1] if k == winners[row - 1] else "#F0B27F" for k in range(n)]
            axes.bar(range(1, n + 1), heights.tolist(), width=0.78, color=colors)
            if row == 0 and column > 0:
                axes.hlines(
                    probabilities.tolist(), [k + 0.61 for k in range(n)], [k + 1.39 for k in range(n)], color=_INK,
                    linewidth=1.2, label="probability",
                )  # fmt: skip
            limit = top if row == 0 else 1.0
            axes.set_ylim(0, (1.28 if row == 0 else 1.04) * limit)  # room for the legend
            axes.set_yticks([0, limit], labels=["0", f"{limit:g}"])
            axes.tick_params(length=0, labelsize=8, colors=_FAINT)
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.spines["bottom"].set_color(_FAINT)
            axes.set_xticks(range(1, n + 1) if n <= 12 else [])
    for row in range(1 + num_rows):
        label = "expectation" if row == 0 else ("sample" if num_rows == 1 else f"sample {row}")
        grid[row][0].set_ylabel(label, fontsize=10, color=_INK)
    grid[0][-1].legend(loc="upper right", frameon=False, fontsize=8.5, labelcolor=_INK, borderpad=0, handlelength=1.2)
    figure.supxlabel("class", fontsize=9.5, color=_INK)
    return figure


def estimator_report(report: Report, *, title: str = "") -> Figure:
    """Error, direction and time of gradient estimators: one row each, the least ``variance + bias^2`` on top.

    A filled diamond is a squared bias that can be told from noise. A hollow diamond is the squared standard error of a
    bias that cannot be told from noise. Where the exact gradient is not known there are no diamonds. An estimator
    of variance 0 has no place on the logarithmic axis; a 0 at the left edge stands for its variance.

    Args:
        report: what ``argumbel.estimators.report`` returned.
        title: a line above the figure.

    Returns:
        A figure of three axes with the same rows: variance and squared bias; mean cosine to the exact gradient; time.

    Raises:
        ValueError: the report has no estimator that applied.

    Example:
        >>> from argumbel import estimators, plots
        >>> f = lambda z: (z[..., 1] - 0.45) ** 2
        >>> names = ["reinforce", "gumbel_softmax"]
        >>> report = estimators.report(f, torch.tensor([0.0, 1.0]), names, num_repeats=100)
        >>> figure = plots.estimator_report(report, title="Tucker's toy")
        >>> len(figure.axes)
        3
        >>> figure.savefig("report.png")
    """
    rows = sorted(report.measured, key=lambda row: (row.variance or 0) + (row.bias or 0) ** 2)
    if not rows:
        raise ValueError("report must have an estimator that applies, but none does; print it for the reasons")
    places = range(len(rows))
    figure = Figure(figsize=(10, 1.5 + 0.27 * len(rows)), dpi=150, layout="constrained")
    error, direction, time = figure.subplots(1, 3, sharey=True, width_ratios=[2.4, 1, 1])

    rounding = 1e-12 * float(report.reference.square().sum())  # of float32; on a log scale it would be far off
    variance, squared, hidden = ([math.nan] * len(rows) for _ in range(3))  # NaN is not drawn
    for place, row in enumerate(rows):
        assert row.variance is not None
        assert row.stderr is not None
        if row.variance > rounding:
            variance[place] = row.variance
        if row.bias is not None and row.bias**2 > rounding and row.bias > 2 * row.stderr:
            squared[place] = row.bias**2
        elif row.bias is not None and row.stderr**2 > rounding:
            hidden[place] = row.stderr**2
    shown = [(variance, "o", _COLORS[0], _COLORS[0], "variance")]
    if report.enumerated:
        shown += [
            (squared, "D", _COLORS[1], _COLORS[1], "squared bias"),
            (hidden, "D", "white", _COLORS[1], "squared bias hidden by noise: its squared standard error"),
        ]
    for values, marker, face, edge, label in shown:
        if not all(map(math.isnan, values)):
            error.plot(values, places, marker, markerfacecolor=face, markeredgecolor=edge, markersize=6, label=label)
    for place in places:
        if math.isnan(variance[place]):
            error.annotate(
                "0", (0, place), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
                va="center", color=_COLORS[0], weight="bold", fontsize=9,
            )  # fmt: skip
    error.set_xscale("log")
    error.set_xlabel("variance, squared bias" if report.enumerated else "variance", fontsize=9, color=_INK)

    cosines = [math.nan if row.mean_cosine is None else row.mean_cosine for row in rows]
    direction.plot(cosines, places, "o", color=_COLORS[2])
    direction.set_xlim(min([0.0, *cosines]) - 0.05, 1.05)
    direction.set_xticks([0, 0.5, 1])
    direction.set_xlabel("mean cosine", fontsize=9, color=_INK)
    time.plot([1e3 * (r.seconds or math.nan) for r in rows], places, "o", color=_COLORS[6])
    time.set_xscale("log")
    time.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    time.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    time.set_xlabel("milliseconds", fontsize=9, color=_INK)

    error.set_yticks(places, labels=[row.label for row in rows])
    error.set_ylim(len(rows) - 0.4, -0.6)
    for axes in (error, direction, time):
        axes.grid(axis="x", color="#E4E4E4", linewidth=0.8)
        axes.hlines(places, 0, 1, transform=axes.get_yaxis_transform(), color="#E4E4E4", linewidth=0.8, zorder=0)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.tick_params(length=0, labelsize=8.5, colors=_INK)
        axes.spines[:].set_visible(False)
    if error.get_legend_handles_labels()[0]:
        figure.legend(
            *error.get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False, fontsize=8.5
        )
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=_INK)
    return figure
