"""The figures: what they show is what they say, to the number."""

from __future__ import annotations

import io
import math
import re
import subprocess
import sys

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import argumbel as ag
from argumbel import plots
from argumbel.distributions import RelaxedOneHotCategorical

HEIGHT = math.sqrt(3) / 2
PROBS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def barycentric(points: torch.Tensor) -> torch.Tensor:
    """From the plane back to the simplex."""
    top = points[:, 1] / HEIGHT
    right = points[:, 0] - top / 2
    return torch.stack([1 - right - top, right, top], -1)


def scattered(axes: Axes) -> torch.Tensor:
    (points,) = axes.collections
    return barycentric(torch.tensor(points.get_offsets().tolist(), dtype=torch.float64))


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=50)
    return buffer.getvalue()


def test_simplex_shows_the_samples() -> None:
    taus = [0.1, 0.5, 1.0, 5.0]
    figure = plots.simplex(taus, num_samples=50, generator=seeded())
    noise = ag.gumbel((50, 3), generator=seeded(), dtype=torch.float64)
    assert len(figure.axes) == 5  # four triangles and the colour bar
    for axes, tau in zip(figure.axes, taus, strict=False):
        expected = torch.softmax((PROBS.log() + noise) / tau, -1)
        torch.testing.assert_close(scattered(axes), expected, rtol=0, atol=1e-9)
        assert axes.get_title() == rf"$\tau$ = {tau:g}"


def test_simplex_shows_the_density() -> None:
    figure = plots.simplex([0.5, 3.0], num_samples=5, generator=seeded())
    for axes, tau in zip(figure.axes, [0.5, 3.0], strict=False):
        (image,) = axes.images
        assert image.get_extent() == [0, 1, 0, HEIGHT]
        shown = torch.tensor(image.get_array().tolist(), dtype=torch.float64)
        rows, columns = shown.shape
        for y in ([0.4, 0.3, 0.3], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7]):
            # The pixel nearest to y, and the point that it stands for.
            column = round((y[1] + y[2] / 2) * (columns - 1))
            row = round(y[2] * (rows - 1))
            where = barycentric(
                torch.tensor([[column / (columns - 1), row / (rows - 1) * HEIGHT]], dtype=torch.float64)
            )
            # Equation 10 of Maddison, Mnih and Teh, in plain numbers.
            alpha, point = PROBS.tolist(), where[0].tolist()
            weights = [a * p ** (-tau - 1) for a, p in zip(alpha, point, strict=True)]
            total = sum(a * p**-tau for a, p in zip(alpha, point, strict=True))
            assert shown[row, column].item() == pytest.approx(math.log(2 * tau**2 * math.prod(weights) / total**3))


def test_all_triangles_share_the_winners_and_name_their_shares() -> None:
    figure = plots.simplex([0.2, 2.0], num_samples=400, labels=["left", "right", "top"], generator=seeded(1))
    shares = None
    for axes in figure.axes[:2]:
        winners = scattered(axes).argmax(-1)
        colors = {tuple(c) for c in axes.collections[0].get_facecolors()}
        assert len(colors) == 3
        counted = [f"{(winners == k).double().mean().item():.2f}" for k in range(3)]
        written = [text.get_text().split() for text in axes.texts]
        assert written == [[name, share] for name, share in zip(["left", "right", "top"], counted, strict=True)]
        assert shares in (None, counted)
        shares = counted


def test_expectations_shows_probabilities_means_and_samples() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0], dtype=torch.float64)
    figure = plots.expectations([0.1, 10.0], logits=logits, num_samples=300, num_rows=2, generator=seeded())
    grid = [figure.axes[i : i + 3] for i in range(0, 9, 3)]
    assert [axes.get_title() for axes in grid[0]] == ["categorical", r"$\tau$ = 0.1", r"$\tau$ = 10"]
    assert [row[0].get_ylabel() for row in grid] == ["expectation", "sample 1", "sample 2"]

    def heights(axes: Axes) -> torch.Tensor:
        return torch.tensor([bar.get_height() for bar in axes.patches], dtype=torch.float64)

    noise = ag.gumbel((302, 4), generator=seeded(), dtype=torch.float64)
    probs = logits.softmax(-1)
    torch.testing.assert_close(heights(grid[0][0]), probs)
    for column, tau in [(1, 0.1), (2, 10.0)]:
        y = torch.softmax((logits + noise) / tau, -1)
        torch.testing.assert_close(heights(grid[0][column]), y[2:].mean(0))
        torch.testing.assert_close(heights(grid[1][column]), y[0])
        torch.testing.assert_close(heights(grid[2][column]), y[1])
        (lines,) = grid[0][column].collections  # the probabilities, for comparison
        torch.testing.assert_close(torch.tensor([s[0][1] for s in lines.get_segments()]), probs)
    for row in (1, 2):
        one_hot = torch.nn.functional.one_hot((logits + noise)[row - 1].argmax(), 4).double()
        assert torch.equal(heights(grid[row][0]), one_hot)
        darkest = [[bar.get_facecolor() for bar in axes.patches].index(max_color(axes)) for axes in grid[row]]
        assert darkest == [int(one_hot.argmax())] * 3


def max_color(axes: Axes) -> tuple[float, ...]:
    """The facecolor that only one bar has."""
    colors = [bar.get_facecolor() for bar in axes.patches]
    return next(c for c in colors if colors.count(c) == 1)


def test_expectation_tends_to_the_probabilities_as_tau_falls() -> None:
    # The mean of 20,000 relaxed draws: standard deviation at most 0.5 / sqrt(20000) = 0.0035; 6 of them.
    figure = plots.expectations([0.01], logits=PROBS.log(), generator=seeded(), num_rows=1)
    shown = torch.tensor([bar.get_height() for bar in figure.axes[1].patches], dtype=torch.float64)
    assert bool(((shown - PROBS).abs() < 6 * 0.0035).all())


@pytest.mark.parametrize("draw", [plots.simplex, plots.expectations])
def test_pictures_are_drawn_and_reproducible(draw) -> None:
    first = png(draw([0.5, 1.0], num_samples=30, generator=seeded(2)))
    assert first.startswith(b"\x89PNG")
    assert first == png(draw([0.5, 1.0], num_samples=30, generator=seeded(2)))
    assert first != png(draw([0.5, 1.0], num_samples=30, generator=seeded(3)))


@pytest.mark.parametrize("draw", [plots.simplex, plots.expectations])
def test_the_global_generator_is_the_default(draw) -> None:
    torch.manual_seed(5)
    first = png(draw([1.0], num_samples=30))
    torch.manual_seed(5)
    assert first == png(draw([1.0], num_samples=30))


@pytest.mark.parametrize("draw", [plots.simplex, plots.expectations])
def test_extreme_temperatures_and_logits_are_drawn(draw) -> None:
    png(draw([1e-3, 0.02, 1e3], logits=[30.0, 0.0, -30.0], num_samples=20, generator=seeded()))


def test_many_classes_are_drawn_without_ticks() -> None:
    figure = plots.expectations([1.0], logits=torch.zeros(40), num_samples=10, generator=seeded())
    assert list(figure.axes[0].get_xticks()) == []
    png(figure)


def test_pyplot_is_not_imported() -> None:
    code = "import sys; from argumbel import plots; plots.simplex([1.0]); print('matplotlib.pyplot' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


@pytest.mark.parametrize("draw", [plots.simplex, plots.expectations])
@pytest.mark.parametrize("taus", [[], [0.0], [-1.0], [math.nan], [1.0, math.inf]])
def test_bad_temperatures(draw, taus: list[float]) -> None:
    with pytest.raises(ValueError, match="taus must be one or more finite numbers above 0"):
        draw(taus)


@pytest.mark.parametrize(
    ("draw", "arguments", "message"),
    [
        (plots.simplex, {"logits": [0.0, 0.0]}, "logits must be a vector of 3 finite numbers, but they are [0.0, 0.0]"),
        (plots.simplex, {"logits": [0.0, 0.0, math.inf]}, "logits must be a vector of 3"),
        (plots.simplex, {"labels": "ab"}, "labels must be three names, one for each class, but they are ['a', 'b']"),
        (plots.simplex, {"num_samples": 0}, "num_samples must be at least 1, but it is 0"),
        (plots.expectations, {"logits": [0.0]}, "logits must be a vector of at least two finite numbers"),
        (plots.expectations, {"logits": torch.zeros(2, 2)}, "logits must be a vector of at least two"),
        (plots.expectations, {"num_rows": 0}, "num_rows must be at least 1, but it is 0"),
    ],
)
def test_bad_arguments(draw, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        draw([1.0], **arguments)


def test_counts_are_integers() -> None:
    with pytest.raises(TypeError, match="num_samples must be an integer, but it is a float"):
        plots.expectations([1.0], num_samples=2.5)  # type: ignore[arg-type]


def test_density_of_the_distribution_is_what_is_drawn_at_low_temperature() -> None:
    """Finite everywhere on the grid, where the plain formula overflows."""
    figure = plots.simplex([0.02], num_samples=2, generator=seeded())
    shown = torch.tensor(figure.axes[0].images[0].get_array().tolist(), dtype=torch.float64)
    assert bool(shown.isfinite().all())
    centre = torch.full((3,), 1 / 3, dtype=torch.float64)
    at_centre = RelaxedOneHotCategorical(torch.tensor(0.02, dtype=torch.float64), logits=PROBS.log()).log_prob(centre)
    assert shown.min().item() == pytest.approx(at_centre.item(), abs=0.2)
