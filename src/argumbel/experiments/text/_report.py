"""The report of a small language model: one HTML file. A section is a title, an explanation and HTML; to add one, add
it to ``SECTIONS``."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ..page import BLUE, CSS, ORANGE, STYLE, embed
from ._corpus import Alphabet
from ._model import TextModel
from ._run import TextRun
from ._sample import beam_texts, sample_texts
from ._watermark import CONTEXT, detect_watermark, watermark_texts

__all__ = ["SECTIONS", "write_text_report"]

TEMPERATURES = (0.0, 0.5, 0.8, 1.0, 1.3)
LENGTH, BREAK = 500, "\n"
PROMPTS = ("The ", BREAK)
BEAM, BEAM_LENGTH = 12, 40
WRITTEN, OTHERWISE = 0.8, 0.85  # temperatures of the counterfactual pair
SECRET = 2026

MORE_CSS = """
pre { white-space: break-spaces; overflow-wrap: anywhere; font: 13px/1.5 ui-monospace, Menlo, Consolas, monospace;
  background: #f6f7f9; border-radius: 6px; padding: 10px 12px; margin: 4px 0 16px; }
h3 { font-size: 14px; margin: 0; }
img + h3 { margin-top: 14px; }
pre mark { background: #fbd9b0; color: inherit; border-radius: 2px; }
pre .prompt { color: var(--soft); }
.marked span { border-radius: 2px; }
.pair > div { min-width: 0; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); gap: 0 16px; }
table.beam { width: auto; margin-bottom: 14px; }
table.beam td, table.beam th { padding: 3px 24px 3px 0; color: inherit; width: auto; text-align: right; }
table.beam th { font-size: 13px; font-weight: 600; color: var(--soft); border: 0; }
table.beam :first-child { text-align: left; }
table.beam td:first-child { font: 13px/1.6 ui-monospace, Menlo, Consolas, monospace; white-space: pre-wrap; }
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
    texts = _samples(model, alphabet, TEMPERATURES)
    return "".join(
        f"<h3>temperature {temperature:g}</h3><pre>{_prompt_shown(alphabet)}{html.escape(text)}</pre>"
        for temperature, text in zip(TEMPERATURES, texts, strict=True)
    )


def beam(run: TextRun, model: TextModel, alphabet: Alphabet) -> str:
    end = " " if " " in alphabet.characters else None
    texts = beam_texts(model, alphabet, _prompt(alphabet), BEAM, BEAM_LENGTH, end=end)
    rows = "".join(
        f"<tr><td>{html.escape(_on_one_line(one.text))}</td><td>{math.exp(one.log_prob):.3g}</td>"
        f"<td>{one.weight:.3g}</td></tr>"
        for one in texts
    )
    sums = (math.fsum(math.exp(one.log_prob) for one in texts), math.fsum(one.weight for one in texts))
    mean = math.fsum(one.weight * len(one.text) for one in texts) / sums[1]
    return (
        f'<table class="beam"><tr><th>text</th><th>probability</th><th>weight</th></tr>{rows}'
        f"<tr><td><b>sum</b></td><td><b>{sums[0]:.3g}</b></td><td><b>{sums[1]:.3g}</b></td></tr></table>"
        f"<p>The mean length of all such texts, estimated by these weights: {mean:.1f} characters.</p>"
    )


def watermarks(run: TextRun, model: TextModel, alphabet: Alphabet) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    (marked,) = watermark_texts(model, alphabet, _prompt(alphabet), [0], LENGTH, secret=SECRET, temperature=WRITTEN)
    (other,) = _samples(model, alphabet, [WRITTEN])
    found, none = (detect_watermark(alphabet, text, secret=SECRET) for text in (marked, other))
    lengths = range(0, LENGTH + 1, 10)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 3.2), layout="constrained")
        axis = figure.subplots()
        for detection, colour, label in ((found, ORANGE, "with the watermark"), (none, BLUE, "without")):
            axis.plot(lengths, [detection.p_value(n) for n in lengths], color=colour, label=label)
        axis.set(xlabel="length in characters", ylabel="p-value", yscale="log")
        axis.set_ylim(top=3)
        axis.legend()
        picture = embed(figure)
    scores = zip(marked, found.scores.tolist(), found.counted.tolist(), strict=True)
    before, shaded = _prompt_shown(alphabet), "".join(_shaded(*one) for one in scores)
    return (
        f'<img alt="p-values" src="{picture}">'
        f'<h3>with the watermark: p = {found.p_value():.2g}</h3><pre class="marked">{before}{shaded}</pre>'
        f"<h3>without: p = {none.p_value():.2g}</h3><pre>{before}{html.escape(other)}</pre>"
    )


def pair(run: TextRun, model: TextModel, alphabet: Alphabet) -> str:
    old, new = _samples(model, alphabet, [WRITTEN, OTHERWISE])
    differ = [a != b for a, b in zip(old, new, strict=True)]
    titles = (f"as it was: temperature {WRITTEN:g}", f"as it would have been: temperature {OTHERWISE:g}")
    texts = "".join(
        f"<div><h3>{title}</h3><pre>{_prompt_shown(alphabet)}{_marked(text, differ)}</pre></div>"
        for title, text in zip(titles, (old, new), strict=True)
    )
    return f'<div class="pair">{texts}</div><p>{sum(differ)} of {LENGTH} characters differ.</p>'


def _prompt(alphabet: Alphabet) -> str:
    """The first of PROMPTS that the model can read."""
    known = (prompt for prompt in PROMPTS if set(prompt) <= set(alphabet.characters))
    return next(known, alphabet.characters[0])


def _prompt_shown(alphabet: Alphabet) -> str:
    return f'<span class="prompt">{html.escape(_prompt(alphabet).lstrip(BREAK))}</span>'


def _samples(model: TextModel, alphabet: Alphabet, temperatures: Sequence[float]) -> list[str]:
    """A text for each temperature, all under one seed."""
    seeds = [0] * len(temperatures)
    return sample_texts(model, alphabet, _prompt(alphabet), seeds, LENGTH, temperature=torch.tensor(temperatures))


def _on_one_line(text: str) -> str:
    return text.replace(BREAK, "\u21b5").replace(" ", "\u2423")


def _shaded(character: str, score: float, counted: bool) -> str:
    """A character, the darker the larger its score; pale where it is not counted."""
    style = f"background: rgba(217, 122, 29, {min(score / 6, 1):.2f})" if counted else "color: #8a93a5"
    return f'<span style="{style}">{html.escape(character)}</span>'


def _marked(text: str, differ: list[bool]) -> str:
    """A text whose differing characters are marked; of a line break there, the mark is a sign before it."""
    parts = []
    for marked, places in itertools.groupby(range(len(text)), lambda place: differ[place]):
        piece = html.escape("".join(text[place] for place in places))
        parts.append("<mark>" + piece.replace(BREAK, "\u21b5\n") + "</mark>" if marked else piece)
    return "".join(parts)


#: Titles, explanations, and what makes the HTML of a section.
SECTIONS: list[tuple[str, str, Callable[[TextRun, TextModel, Alphabet], str]]] = [
    ("Learning", "Cross-entropy of the next character. The weights with the least validation loss are kept.", curves),
    (
        "Samples",
        "Texts that go on from one prompt, under one seed: all have the same noise at the same place, and differ by "
        "their temperature alone. Temperature 0 takes the likeliest character.",
        temperatures,
    ),
    (
        "A stochastic beam",
        f"{BEAM} different texts up to the first space, drawn without replacement: the first text has the law of the "
        "model, the second the law of the model given that it is not the first, and so on. With the weights a sum over "
        "these texts estimates the sum over all texts, whose probabilities add up to 1.",
        beam,
    ),
    (
        "A watermark",
        f"The noise of a character is a function of a secret and of the {CONTEXT} characters before it. Whoever knows "
        "the secret computes the score of each character: the darker, the larger. Pale characters do not count. The "
        "p-value says how likely such scores are in a text without the watermark.",
        watermarks,
    ),
    (
        "What would have been written",
        "The same luck at another temperature: the noise at each place is the same. Characters that differ from the "
        "character at the same place of the other text are marked.",
        pair,
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
