"""The training of a small language model. Each step is a function of (seed, step)."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import stream
from ._config import TextConfig
from ._corpus import Corpus
from ._model import TextModel
from ._run import TextRun

__all__ = ["fit_text"]

WARM = 0.05  # the part of the steps in which the learning rate rises
CLIP = 1.0  # the largest norm of a gradient


def fit_text(
    config: TextConfig,
    out: Path | None = None,
    *,
    overwrite: bool = False,
    listener: Callable[[dict[str, Any]], None] | None = None,
) -> TextRun:
    """Train a character-level transformer, and write the run to a folder.

    Args:
        config: what to train.
        out: the folder of the run. By default it is ``runs/text``, with a number if that exists.
        overwrite: whether to replace the run that is in ``out``.
        listener: is called with every record of ``metrics.jsonl``.

    Returns:
        The run.

    Raises:
        ValueError: ``out`` holds a run, there is no such text, or the text is shorter than the window.
        FloatingPointError: the loss became infinite or NaN.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    corpus = Corpus.load(config.data)
    if min(len(corpus.train), len(corpus.valid)) <= config.window:
        raise ValueError(
            f"data must be longer than the window, {config.window} characters for training and for validation, but it "
            f"has {len(corpus.train)} and {len(corpus.valid)}; give a longer text, or a smaller --window"
        )
    model = config.model(corpus.alphabet)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    run = TextRun.create(out or _free_folder(), config, overwrite=overwrite)
    best, total, count, began = math.inf, 0.0, 0, time.perf_counter()
    with run.metrics.open("a") as file:

        def record(entry: dict[str, Any]) -> None:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            if listener is not None:
                listener(entry)

        for step in range(1, config.steps + 1):
            for group in optimizer.param_groups:
                group["lr"] = _learning_rate(config, step)
            texts = _texts(corpus.train, config, step)
            loss = _loss(model, texts)
            if not bool(loss.isfinite()):
                raise FloatingPointError(
                    f"loss must be finite, but became {loss.item()} by step {step}; lower the learning rate"
                )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad()
            total, count = total + loss.item(), count + 1
            if step % config.log_every == 0 or step == config.steps:
                seconds = time.perf_counter() - began
                record({"step": step, "kind": "train", "loss": total / count, "seconds": seconds})
                total, count = 0.0, 0
            if step % config.valid_every == 0 or step == config.steps:
                valid = validation_loss(model, corpus.valid)
                record({"step": step, "kind": "valid", "loss": valid, "seconds": time.perf_counter() - began})
                if valid < best:
                    best = valid
                    characters = corpus.alphabet.characters
                    state = {"model": model.state_dict(), "characters": characters, "step": step, "loss": valid}
                    run.save("best.pt", state)
    return run


@torch.no_grad()
def validation_loss(model: TextModel, text: Tensor) -> float:
    """Mean nats per character, over pieces as long as the window."""
    size = model.window + 1
    pieces = text[: len(text) // size * size].reshape(-1, size)
    losses = [_loss(model, part).item() * len(part) for part in pieces.split(64)]
    return sum(losses) / len(pieces)


def _loss(model: TextModel, texts: Tensor) -> Tensor:
    logits, _ = model(texts[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), texts[:, 1:].flatten())


def _texts(text: Tensor, config: TextConfig, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(stream(config.seed, f"texts/{step}"))
    starts = torch.randint(len(text) - config.window, (config.batch, 1), generator=generator)
    return text[starts + torch.arange(config.window + 1)]


def _learning_rate(config: TextConfig, step: int) -> float:
    warm = max(1.0, WARM * config.steps)
    return config.lr * min(1.0, step / warm) * (0.5 + 0.5 * math.cos(math.pi * (step - 1) / config.steps))


def _free_folder() -> Path:
    path, number = Path("runs/text"), 1
    while path.exists():
        number += 1
        path = Path(f"runs/text-{number}")
    return path
