"""Dependency trees of synthetic sentences: parsing learned by likelihood, by a Fenchel-Young loss, or from rewards.

Source: Koo et al. 2007, "Structured prediction models via the matrix-tree theorem" (likelihood); Corro and Titov 2019,
"Differentiable perturb-and-parse" (noise on the scores of edges); Struminsky et al. 2021, "Leveraging recursive
gumbel-max trick for approximate inference in combinatorial spaces" (rewards).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...estimators import trace_reinforce
from ...noise import gumbel
from ...perturbation import fenchel_young_loss
from ...structures import Arborescence
from ..recipe import Figure, Job, Outcome, Recipe, recorded
from ..run import stream

__all__ = ["METHODS", "PARSING", "Language", "Parser", "heads_right", "learn_to_parse"]

METHODS = ("log_partition", "fenchel_young_loss", "trace_reinforce")
_REACH = 4  # longer distances count as this one


class Language:
    """A random language: which word governs which is a function of hidden features of the two words and of their
    distance, with some noise.

    The score of the edge from u to v is ``1.5 a(word u) . b(word v) + c(v - u) + 0.5 noise``, with random vectors a and
    b of 4 numbers, random numbers c, and Gumbel noise. The tree of a sentence is the arborescence with the largest
    score in which one edge leaves the root.

    Args:
        words: in the vocabulary; number 0 is the root.
        length: of a sentence, without the root.
        seed: of the language.
    """

    def __init__(self, words: int = 100, length: int = 10, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(stream(seed, "language"))
        self.words, self.length = words, length
        self.a, self.b = torch.randn(2, words, 4, generator=generator)
        self.c = torch.randn(2 * _REACH + 1, generator=generator)
        self.structure = Arborescence(length + 1, single_root=True)

    def scores(self, sentences: Tensor) -> Tensor:
        """The scores of the edges without noise, ``(*batch, length + 1, length + 1)``."""
        fit = 1.5 * self.a[sentences] @ self.b[sentences].mT
        return fit + self.c[_distance(self.length + 1)]

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Sentences ``(count, length + 1)``, the root first, and their trees ``(count, length + 1, length + 1)``."""
        sentences = torch.randint(1, self.words, (count, self.length + 1), generator=generator)
        sentences[:, 0] = 0
        scores = self.scores(sentences)
        noise = gumbel(scores.flatten(1).shape, generator=generator).reshape(scores.shape)
        return sentences, self.structure.argmax(scores + 0.5 * noise)


class Parser(nn.Module):
    """The score of each edge: a bilinear form of the vectors of the two words, plus a number for their distance."""

    def __init__(self, words: int, width: int = 16) -> None:
        super().__init__()
        self.head, self.tail = nn.Embedding(words, width), nn.Embedding(words, width)
        self.distance = nn.Parameter(torch.zeros(2 * _REACH + 1))

    def forward(self, sentences: Tensor) -> Tensor:
        fit = self.head(sentences) @ self.tail(sentences).mT / self.head.embedding_dim**0.5
        return fit + self.distance[_distance(sentences.shape[-1])]


def _distance(n: int) -> Tensor:
    place = torch.arange(n)
    return (place - place.unsqueeze(-1)).clamp(-_REACH, _REACH) + _REACH


def heads_right(found: Tensor, trees: Tensor) -> Tensor:
    """The share of words that have the right head, ``(*batch,)``."""
    return (found * trees).sum((-2, -1)) / (trees.shape[-1] - 1)


def learn_to_parse(
    method: str,
    *,
    seed: int,
    steps: int,
    num_samples: int = 4,
    batch: int = 32,
    lr: float = 0.05,
    length: int = 10,
    test_sentences: int = 1000,
    every: int = 50,
    record: Callable[[dict[str, Any]], None] = lambda entry: None,
) -> tuple[dict[str, float], float]:
    """Learn to parse new sentences of a language, by Adam with a cosine schedule.

    Args:
        method: ``log_partition``: the likelihood of the trees. ``fenchel_young_loss``: the loss of the perturbed
            problem with these trees. ``trace_reinforce``: only the share of right heads of sampled trees is known.
        seed: of the language, the weights, the sentences and the noise.
        steps: number of steps.
        num_samples: noisy trees for each sentence.
        batch: new sentences in each step.
        lr: learning rate.
        length: of a sentence.
        test_sentences: the number of sentences of the figures.
        every: steps between two records, which use 200 test sentences.
        record: is called with ``{"step", "kind": "test", "heads"}``.

    Returns:
        ``heads``: the share of right heads of the best trees in test sentences. ``possible``: the share that the scores
        of the language reach, without their noise. And the seconds that the steps took.
    """
    language = Language(length=length, seed=seed)
    structure = language.structure
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, "weights"))
        model = Parser(language.words)
    test, gold = language.draw(test_sentences, torch.Generator().manual_seed(stream(seed, "test")))
    generator = torch.Generator().manual_seed(stream(seed, "sentences"))

    def loss(scores: Tensor, trees: Tensor) -> Tensor:
        if method == "log_partition":
            return structure.log_partition(scores) - (scores * trees).sum((-2, -1))
        if method == "fenchel_young_loss":
            return fenchel_young_loss(scores, trees, structure, num_samples, generator=generator)
        wrong = lambda y: 1 - heads_right(y, trees)  # noqa: E731
        return trace_reinforce(wrong, scores, structure=structure, num_samples=num_samples, generator=generator)

    def share(count: int, scores: Callable[[Tensor], Tensor]) -> float:
        with torch.no_grad():
            return float(heads_right(structure.argmax(scores(test[:count])), gold[:count]).mean())

    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    record({"step": 0, "kind": "test", "heads": share(200, model)})
    seconds = 0.0
    for step in range(1, steps + 1):
        began = time.perf_counter()
        sentences, trees = language.draw(batch, generator)
        value = loss(model(sentences), trees).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        seconds += time.perf_counter() - began
        if step % every == 0 or step == steps:
            record({"step": step, "kind": "test", "heads": share(200, model)})
    return {"heads": share(test_sentences, model), "possible": share(test_sentences, language.scores)}, seconds


def train_parsing(job: Job) -> Outcome:
    return recorded(job, learn_to_parse)


PARSING = Recipe(
    title="Dependency trees of a random language",
    text=(
        "Sentences of 10 words from a vocabulary of 99, with a root. Which word governs which is decided by the "
        "arborescence with the largest score; the score of an edge is a bilinear form of 4 hidden features of both "
        "words, plus a number for their distance, plus noise. The parser has 16 numbers of its own for each word, and "
        "learns from 32 new sentences in each step, by Adam at 0.05 with a cosine schedule: by the likelihood of the "
        "trees (log_partition), by the Fenchel-Young loss of perturbed trees, or from rewards alone, the share of "
        "right heads of 4 sampled trees (trace_reinforce). The figures are of 1,000 test sentences: the share of "
        "words with the right head, and the share that the hidden scores reach, without their noise."
    ),
    rows={method: {"method": method} for method in METHODS},
    train=train_parsing,
    figures=(Figure("heads", "right heads", 3), Figure("possible", "possible", 3)),
    curves=(Figure("test/heads", "right heads, 200 test sentences", 3),),
    steps=1000,
    seeds=(0,),
    differences=(),
    source="The language is ours; the losses are of Koo et al. 2007, Berthet et al. 2020 and Struminsky et al. 2021",
)
