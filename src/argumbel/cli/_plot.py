"""``argumbel plot``: one command for each figure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ._terminal import check_figure_file, errors_on_one_line, numbers, print_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot"]

plot = typer.Typer(no_args_is_help=True, help="Draw the figures that explain the relaxation.")

Taus = Annotated[str, typer.Option(help="Temperatures, separated by commas.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="File to write: .png, .svg or .pdf.")]
Dpi = Annotated[int, typer.Option(help="Dots per inch of a .png.")]
Seed = Annotated[int, typer.Option(help="Seed of the samples.")]


@plot.command()
def simplex(tau: Taus = "0.1,0.5,1,5", output: Output = Path("simplex.png"), dpi: Dpi = 200, seed: Seed = 0) -> None:
    """Samples and density of the relaxed categorical on three classes, one triangle for each temperature."""
    _draw("simplex", tau, output, dpi, seed)


@plot.command()
def expectations(
    tau: Taus = "0.1,0.5,1,10", output: Output = Path("expectations.png"), dpi: Dpi = 200, seed: Seed = 0
) -> None:
    """Mean and samples of the relaxed and of the discrete categorical, by temperature (Jang et al. 2017, figure 1)."""
    _draw("expectations", tau, output, dpi, seed)


def _draw(figure: str, taus: str, output: Path, dpi: int, seed: int) -> None:
    console = Console()
    with errors_on_one_line():
        import torch

        from .. import plots

        draw: Callable[..., Figure] = getattr(plots, figure)
        check_figure_file("output", output)
        drawn = draw(numbers("tau", taus, float), generator=torch.Generator().manual_seed(seed))
        output.parent.mkdir(parents=True, exist_ok=True)
        drawn.savefig(output, dpi=dpi)
        print_path(console, "Wrote", output)
