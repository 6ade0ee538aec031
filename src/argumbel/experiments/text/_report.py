"""The report of a small language model: one HTML file. A section is a title, an explanation and HTML; to add one, add
it to ``SECTIONS``."""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from pathlib import Path

from ..page import BLUE, CSS, ORANGE, STYLE, embed
from ._corpus import Alphabet
from ._model import TextModel
from ._run import TextRun
from ._sample import sample_texts

__all__ = ["SECTIONS", "write_text_report"]

TEMPERATURES = (0.0, 0.5, 0.8, 1.0, 1.3)
LENGTH, PROMPT = 500, "\n"

MORE_CSS = """
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.5 ui-monospace, Menlo, Consolas, monospace;
  background: #f6f7f9; border-radius: 6px; padding: 10px 12px; margin: 4px 0 16px; }
h3 { font-size: 14px; margin: 0; }
"""


def curves(run: TextRun, model: TextModel, alphabet: Alphabet) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 3.4), layout="constrained")
        axis = figure.subplots()
        for kind, colour, label in (("train", BLUE, "training"), ("valid", ORANGE, "validation")):
            points = [(r["step"], r["loss"]) for r in run.records() if r["kind"] == kind]
            axis.plot([x for x, _ in points], [y for _, y in points], color=colour, label=label)
        axis.set(xlabel="step", ylabel="nats per character")
        axis.legend()
        picture = embed(figure)
    return f'<img alt="Learning" src="{picture}">'


def temperatures(run: TextRun, model: TextModel, alphabet: Alphabet) -> str:
    prompt = PROMPT if PROMPT in alphabet.characters else alphabet.characters[0]
    parts = []
    for temperature in TEMPERATURES:
        (text,) = sample_texts(model, alphabet, prompt, [0], LENGTH, temperature=temperature)
        parts.append(f"<h3>temperature {temperature:g}</h3><pre>{html.escape(text)}</pre>")
    return "".join(parts)


#: Titles, explanations, and what makes the HTML of a section.
SECTIONS: list[tuple[str, str, Callable[[TextRun, TextModel, Alphabet], str]]] = [
    ("Learning", "Cross-entropy of the next character. The weights with the least validation loss are kept.", curves),
    (
        "Samples",
        "Texts under one seed: all have the same noise at the same place, and differ by their temperature alone. "
        "Temperature 0 takes the likeliest character.",
        temperatures,
    ),
]


def write_text_report(run: TextRun) -> Path:
    """Write ``report.html`` of a trained run, and return its path."""
    from ... import __version__

    model, alphabet, state = run.language_model()
    config = run.config()
    count = sum(p.numel() for p in model.parameters())
    source = "the documentation that comes with Python" if config.data is None else Path(config.data).name
    seconds = max((r["seconds"] for r in run.records()), default=0.0)
    tiles = [
        ("validation loss", f"{state['loss']:.3f}", "nats per character"),
        ("in bits", f"{state['loss'] / math.log(2):.3f}", "bits per character"),
        ("characters", f"{len(alphabet.characters)}", "in the alphabet"),
        ("parameters", f"{count:,}", f"{config.layers} layers of width {config.width}"),
        ("training", f"{seconds:.0f} s", f"{config.steps:,} steps; kept: step {state['step']:,}"),
    ]
    cards = "".join(
        f'<div class="tile"><span>{html.escape(what)}</span><b>{html.escape(value)}</b>'
        f"<small>{html.escape(why)}</small></div>"
        for what, value, why in tiles
    )
    sections = "".join(
        f"<section><h2>{title}</h2><p>{text}</p>{make(run, model, alphabet)}</section>"
        for title, text, make in SECTIONS
    )
    run.report.write_text(
        f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>A small language model: argumbel</title>
<style>{CSS}{MORE_CSS}</style>
</head>
<body><main>
<h1>A small language model</h1>
<p>A character-level transformer, trained on {html.escape(source)}.</p>
<div class="tiles">{cards}</div>
{sections}
<footer>argumbel {html.escape(__version__)}</footer>
</main></body>
</html>
""",
        encoding="utf-8",
    )
    return run.report
