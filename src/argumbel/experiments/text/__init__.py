"""A small language model over characters, to try the functions of ``argumbel.sequences`` on: configuration, training,
texts and report. The commands ``argumbel train-text`` and ``argumbel text`` call it."""

from ._config import TextConfig
from ._corpus import Alphabet, Corpus
from ._model import Cache, TextModel
from ._report import write_text_report
from ._run import TextRun
from ._sample import BeamText, beam_texts, rewrite_text, sample_texts
from ._train import fit_text
from ._watermark import CONTEXT, Detection, detect_watermark, watermark_texts

__all__ = [
    "CONTEXT",
    "Alphabet",
    "BeamText",
    "Cache",
    "Corpus",
    "Detection",
    "TextConfig",
    "TextModel",
    "TextRun",
    "beam_texts",
    "detect_watermark",
    "fit_text",
    "rewrite_text",
    "sample_texts",
    "watermark_texts",
    "write_text_report",
]
