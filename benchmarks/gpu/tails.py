"""Is the law right on the GPU, where that is hard? And do CPU and GPU make the same choice of the same key?"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor

import argumbel as ag

from .. import exactness, laws
from ..exactness import DRAWS, Draw, Finding, Noise, Question, rows, torch_noise
from ..measure import OURS, reason
from ..problem import Problem
from .peers import compiled, flashinfer_logits, flashinfer_probs, gumbel_race, race

LIMIT = 18.0  # Gumbel numbers beyond it: 16 in 2^30
NUMBERS = 1 << 30
KEYED_DRAWS = {10: 10_000_000, 1000: 100_000}  # items in a row -> draws wanted; the CPU takes most of the time
CHUNK = 1 << 20  # numbers of noise at a time

KEYS = "keys"
ASKED = ("gap", "ties", "forbidden")  # of the questions of ``exactness``
QUESTIONS = [
    Question(KEYS, "draws under the same key that differ between CPU and GPU", None, {}),
    Question("tail", f"Gumbel numbers beyond {LIMIT:g}, float32", partial(exactness.tail, limit=LIMIT), {}),
    *(dataclasses.replace(q, contestants={}) for q in exactness.QUESTIONS if q.name in ASKED),
]


def _draws(device: torch.device) -> dict[tuple[str, str], Draw]:
    """Those of ``exactness``, but jax, and what is only of interest on a GPU."""
    compiled_race, compiled_gumbel = compiled(race, device), compiled(gumbel_race, device)
    compiled_softmax = compiled(F.gumbel_softmax, device)
    return {
        **{key: draw for key, draw in DRAWS.items() if key[0] in (OURS, "torch")},
        ("torch", "probs / exponential_, argmax, compiled"): rows(
            lambda x: compiled_race(torch.softmax(x, -1, dtype=torch.float32))
        ),
        ("torch", "the same, but probs in the dtype of logits"): rows(lambda x: compiled_race(torch.softmax(x, -1))),
        ("torch", "(logits + Gumbel noise).argmax, compiled"): rows(compiled_gumbel),
        ("torch", "F.gumbel_softmax(hard=True), compiled"): rows(lambda x: compiled_softmax(x, hard=True).argmax(-1)),
        ("flashinfer", "sampling_from_logits"): rows(lambda x: flashinfer_logits(x.contiguous()).long()),
        ("flashinfer", "sampling_from_probs"): rows(
            lambda x: flashinfer_probs(torch.softmax(x, -1, dtype=torch.float32)).long()
        ),
    }


def _noises(device: torch.device) -> dict[tuple[str, str], Noise]:
    def log_exponential(n: int) -> Tensor:
        return -torch.empty(n, device=device).exponential_().log()

    functions: dict[tuple[str, str], Callable[[int], Tensor]] = {
        (OURS, "gumbel"): lambda n: ag.gumbel((n,), device=device),
        ("torch", "-empty.exponential_().log()"): log_exponential,
        ("torch", "-empty.exponential_().log(), compiled"): compiled(log_exponential, device),
    }
    return {key: torch_noise(function, LIMIT) for key, function in functions.items()}


def ask(device: torch.device, patience: float, numbers: int = NUMBERS) -> Iterator[Finding]:
    """Every question but that of keys."""
    torch.compiler.reset()
    draws = _draws(device)
    for question in QUESTIONS[1:]:
        if question.name == "tail":
            tail = partial(question.ask, total=numbers, chunk=min(numbers, 1 << 26))
            question = dataclasses.replace(question, ask=tail, contestants=_noises(device))
        else:
            question = dataclasses.replace(question, contestants=draws)
        yield from exactness.ask(question, patience, device)


# ----------------------------------------------------------------------------------------------------- the same choices


def same_choice(device: torch.device, seconds: float, wanted: dict[int, int] | None = None) -> Iterator[Finding]:
    """``gumbel_max`` under one key, on the CPU and on the device, float32 and bfloat16 logits in turn.

    Each chunk has rows of its own, and so noise of its own; the logits of all chunks are the same.
    """
    for items, draws in (KEYED_DRAWS if wanted is None else wanted).items():
        finding = Finding(KEYS, f"gumbel_max, rows of {items:,}", OURS, "", "0", "cannot")
        try:
            made, differ = _compare(device, items, draws, seconds)
            finding.measured = f"{differ:,} of {made:,}"
            finding.verdict = "fail" if differ else "pass" if made >= draws else "undecided"
        except Exception as error:
            finding.measured = reason(error)
        yield finding


def _compare(device: torch.device, items: int, draws: int, seconds: float) -> tuple[int, int]:
    """Draws made, and how many differ in the index or in the value."""
    size = min(max(CHUNK // items, 1), draws)
    logits = torch.randn((size, items), generator=torch.Generator().manual_seed(0))
    inputs = [(x, x.to(device)) for x in (logits, logits.bfloat16())]
    made, differ, start = 0, 0, time.perf_counter()
    for chunk in count():
        if made >= draws or (chunk and time.perf_counter() - start > seconds):
            return made, differ
        here, there = inputs[chunk % 2]
        noise = ag.KeyedNoise(seed=11, rows=torch.arange(made, made + size))
        ours, theirs = ag.gumbel_max(here, noise=noise), ag.gumbel_max(there, noise=noise)
        wrong = (ours.indices != theirs.indices.cpu()) | (ours.values != theirs.values.cpu())
        made, differ = made + size, differ + int(wrong.sum())
    raise AssertionError  # count() has no end


# -------------------------------------------------------------------------------------------------------------- replays


def check_replays(problem: Problem, replay: Callable[[], object], draws: int = 2000) -> None:
    """Replays of a graph are draws of their own, and follow the law."""
    calls = -(-draws // (problem.size.elements // problem.size.shape[-1]))
    drawn = torch.stack([_winners(replay()).clone() for _ in range(max(calls, 2))])
    assert bool((drawn[1:] != drawn[:1]).any()), "all replays are the same"
    laws.check_categorical(problem.exact_logits, drawn)


def _winners(result: object) -> Tensor:
    """Of an index, of values and indices, or of a relaxed sample."""
    if isinstance(result, tuple):
        return result[1]
    assert isinstance(result, Tensor)
    return result.argmax(-1) if result.dtype.is_floating_point else result
