"""A text as numbers: the characters, and the parts for training and validation."""

from __future__ import annotations

import gzip
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["Alphabet", "Corpus"]

VALID = 0.05  # the last part of the text


@dataclass(frozen=True)
class Alphabet:
    """The characters that a model knows; the id of a character is its place."""

    characters: str

    def encode(self, text: str, name: str = "prompt") -> Tensor:
        """int64 ids ``(len(text),)``."""
        ids = {character: i for i, character in enumerate(self.characters)}
        unknown = sorted(set(text) - set(ids))
        if unknown:
            raise ValueError(
                f"{name} must have the characters of the text that the model was trained on, but {unknown[0]!r} is not "
                "one of them; leave it out"
            )
        return torch.tensor([ids[character] for character in text], dtype=torch.int64)

    def decode(self, ids: Tensor) -> str:
        return "".join(self.characters[i] for i in ids.tolist())


@dataclass(frozen=True)
class Corpus:
    """A text for training, int64 ids ``(characters,)``, and one for validation."""

    alphabet: Alphabet
    train: Tensor
    valid: Tensor

    @classmethod
    def load(cls, data: str | None = None) -> Corpus:
        """The text of a file (UTF-8, gzipped or not), or else the documentation that comes with Python."""
        return cls.of(_documentation() if data is None else _file(Path(data)))

    @classmethod
    def of(cls, text: str) -> Corpus:
        alphabet = Alphabet("".join(sorted(set(text))))
        ids = alphabet.encode(text)
        cut = len(ids) - int(VALID * len(ids))
        return cls(alphabet, ids[:cut], ids[cut:])


def _documentation() -> str:
    """What ``help("topics")`` shows: about 460,000 characters on the Python language."""
    topics: Mapping[str, str] = importlib.import_module("pydoc_data.topics").topics
    text = "\n\n".join(topics[name] for name in sorted(topics))
    return "".join(character for character in text if character.isascii())


def _file(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"data must be a text file, but there is no file {path}; give the path of one")
    raw = path.read_bytes()
    try:
        return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    except UnicodeDecodeError:
        raise ValueError(f"data must be text in UTF-8, but {path} is not; convert it to UTF-8") from None
