"""The run folder of a small language model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..run import Run
from ._config import TextConfig
from ._corpus import Alphabet
from ._model import TextModel

__all__ = ["TextRun"]


@dataclass(frozen=True)
class TextRun(Run):
    """A folder: ``config.json``, ``metrics.jsonl``, ``best.pt`` and ``report.html``."""

    @classmethod
    def open(cls, path: Path) -> TextRun:
        """The run in a folder that ``argumbel train-text`` wrote."""
        run = cls(path)
        stored = run.read_json("config.json")
        if stored is None or "window" not in stored:
            raise ValueError(
                f"run must be a folder that argumbel train-text wrote, but {path} is not; give such a folder"
            )
        return run

    def config(self, **changes: Any) -> TextConfig:  # type: ignore[override]
        """The configuration of this run, with ``changes`` in place of what is stored."""
        return TextConfig(**(json.loads((self.path / "config.json").read_text()) | changes))

    def language_model(self) -> tuple[TextModel, Alphabet, dict[str, Any]]:
        """The model with the least validation loss, its characters, and the rest of its checkpoint."""
        state = self.load("best.pt")
        alphabet = Alphabet(state.pop("characters"))
        model = self.config().model(alphabet)
        model.load_state_dict(state.pop("model"))
        return model.eval(), alphabet, state
