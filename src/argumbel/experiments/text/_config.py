"""The settings of a small language model."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch

from ..config import DATA, FOLDER, MACHINE, MODEL, TRAINING, stream
from ..settings import Setting, settings_of
from ._corpus import Alphabet
from ._model import TextModel

__all__ = ["TextConfig"]


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Everything that decides the training of a small language model: what ``config.json`` of its run holds.

    >>> from argumbel.experiments.text import TextConfig
    >>> TextConfig(window=64).window
    64
    """

    data: Annotated[
        str | None,
        Setting(
            DATA,
            "A text file in UTF-8, gzipped or not.",
            path=True,
            default_text="the documentation that Python carries",
        ),
    ] = None
    width: Annotated[int, Setting(MODEL, "Width of the hidden states.", minimum=4)] = 96
    layers: Annotated[int, Setting(MODEL, "Number of layers.", minimum=1)] = 3
    heads: Annotated[int, Setting(MODEL, "Number of attention heads.", minimum=1)] = 4
    window: Annotated[int, Setting(MODEL, "How many characters a character looks at.", minimum=2)] = 96
    steps: Annotated[int, Setting(TRAINING, "Number of optimiser steps.", minimum=1)] = 1800
    batch: Annotated[int, Setting(TRAINING, "Texts in each step, each as long as the window.", minimum=1)] = 16
    lr: Annotated[float, Setting(TRAINING, "Largest learning rate: rises, then falls to 0.", positive=True)] = 4e-3
    seed: Annotated[int, Setting(TRAINING, "Decides the first weights and the order of the texts.")] = 0
    threads: Annotated[
        int | None, Setting(MACHINE, "Number of CPU threads.", default_text="PyTorch's choice", minimum=1)
    ] = None
    log_every: Annotated[int, Setting(FOLDER, "Steps between two records of the training loss.", minimum=1)] = 50
    valid_every: Annotated[
        int, Setting(FOLDER, "Steps between two validations. The best weights are kept.", minimum=1)
    ] = 200

    @classmethod
    @functools.cache
    def settings(cls) -> Mapping[str, Setting]:
        """The description of each field."""
        return settings_of(cls)

    def __post_init__(self) -> None:
        for name, setting in self.settings().items():
            object.__setattr__(self, name, setting.check(name, getattr(self, name)))
        if self.width % (2 * self.heads):
            raise ValueError(
                f"width must be a multiple of twice the heads, {2 * self.heads}, but it is {self.width}; give "
                f"{2 * self.heads * max(1, self.width // (2 * self.heads))}"
            )

    def model(self, alphabet: Alphabet) -> TextModel:
        """The untrained model. Its weights are a function of the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(self.seed, "weights"))
            return TextModel(
                len(alphabet.characters), width=self.width, layers=self.layers, heads=self.heads, window=self.window
            )
