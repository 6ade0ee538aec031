"""A small language model over characters, to try the functions of ``argumbel.sequences`` on: configuration, training,
texts and report. The commands ``argumbel train-text`` and ``argumbel text`` call it."""

from ._config import TextConfig
from ._corpus import Alphabet, Corpus
from ._model import Cache, TextModel
from ._report import write_text_report
from ._run import TextRun
from ._sample import sample_texts
from ._train import fit_text

__all__ = [
    "Alphabet",
    "Cache",
    "Corpus",
    "TextConfig",
    "TextModel",
    "TextRun",
    "fit_text",
    "sample_texts",
    "write_text_report",
]
