"""The toy problem of spanning trees: learn scores under which no edge avoids node 0.

Source: Struminsky et al. 2021, "Leveraging recursive gumbel-max trick for approximate inference in combinatorial
spaces", and the authors' code.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...estimators import implicit_mle, trace_reinforce, trace_relax
from ...noise import KeyedNoise
from ...perturbation import perturbed
from ...structures import SpanningTree, perturbed_argmax, stochastic_softmax
from ..recipe import Figure, Job, Outcome, Recipe, recorded
from ..run import stream

__all__ = ["METHODS", "TREES", "elsewhere", "estimate", "learn_tree"]

METHODS = ("noise score", "trace_reinforce", "trace_relax", "implicit_mle", "stochastic_softmax")


def elsewhere(trees: Tensor, nodes: int) -> Tensor:
    """The number of edges that do not touch node 0, ``(*batch,)``: 0 for the star around node 0."""
    return trees[..., nodes - 1 :].sum(-1)  # the first nodes - 1 edges of triu_indices are those of node 0


def estimate(
    method: str,
    scores: Tensor,
    nodes: int,
    num_samples: int,
    critic: nn.Module,
    generator: torch.Generator,
    *,
    strength: float = 10.0,
    tau: float = 1.0,
) -> Tensor:
    """The mean loss of sampled trees, ``(*batch,)``; its gradient is the estimate by one of METHODS."""
    tree = SpanningTree(nodes)

    def loss(y: Tensor) -> Tensor:
        return elsewhere(y, nodes)

    if method == "noise score":
        # Any function of scores can be perturbed: here the solver and the loss after it.
        return perturbed(lambda v: loss(tree.argmax(v)), scores, num_samples, generator=generator)
    if method == "trace_reinforce":
        return trace_reinforce(loss, scores, structure=tree, num_samples=num_samples, generator=generator)
    if method == "trace_relax":
        return trace_relax(loss, scores, structure=tree, c=critic, num_samples=num_samples, generator=generator)
    if method == "implicit_mle":
        return implicit_mle(loss, scores, tree, num_samples=num_samples, strength=strength, generator=generator)
    many = scores.expand(num_samples, *scores.shape)
    return loss(stochastic_softmax(tree, many, tau, generator=generator)).mean(0)


def learn_tree(
    method: str,
    *,
    seed: int,
    steps: int,
    nodes: int = 7,
    num_samples: int = 3,
    lr: float = 0.01,
    every: int = 50,
    repeats: int = 50,
    record: Callable[[dict[str, Any]], None] = lambda entry: None,
) -> tuple[dict[str, float], float]:
    """Learn the scores of the edges by Adam, from 0.

    Args:
        method: one of METHODS.
        seed: of the noise and of the critic.
        steps: number of steps.
        nodes: of the tree.
        num_samples: trees in each step.
        lr: learning rate, also of the critic.
        every: steps between two records.
        repeats: gradients from which a record has its variance.
        record: is called with ``{"step", "kind": "train", "loss", "log_variance"}``: the mean loss of 400 trees that
            the present scores give, and the logarithm of the variance of one step's gradient, summed over the edges.

    Returns:
        ``loss``: the mean of the recorded losses over the last tenth of the steps. ``half``: the first recorded step
        with a mean loss of at most one half, or ``steps`` if there is none. ``log_variance``: the mean of the records
        of the first half of the steps. And the seconds that the steps took.
    """
    edges = nodes * (nodes - 1) // 2
    scores = torch.zeros(edges, requires_grad=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, "critic"))
        critic = nn.Sequential(nn.Linear(edges, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(-2))
    groups: list[dict[str, Any]] = [
        {"params": [scores]},
        *([{"params": critic.parameters()}] if method == "trace_relax" else []),
    ]
    optimizer = torch.optim.Adam(groups, lr=lr)
    generator = torch.Generator().manual_seed(stream(seed, "trees"))
    records: list[dict[str, Any]] = []

    def look(step: int) -> None:
        many = scores.detach().expand(repeats, edges).clone().requires_grad_()
        (g,) = torch.autograd.grad(estimate(method, many, nodes, num_samples, critic, generator).sum(), many)
        trees = perturbed_argmax(SpanningTree(nodes), scores.detach().expand(400, edges), noise=KeyedNoise(step))
        # Late in the training all gradients may be 0; the logarithm stays finite.
        variance = max(float(g.double().var(0).sum()), 1e-12)
        loss = float(elsewhere(trees.indicators, nodes).mean())
        records.append({"step": step, "kind": "train", "loss": loss, "log_variance": math.log(variance)})
        record(records[-1])

    look(0)
    seconds = 0.0
    for step in range(1, steps + 1):
        began = time.perf_counter()
        loss = estimate(method, scores, nodes, num_samples, critic, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds += time.perf_counter() - began
        if step % every == 0 or step == steps:
            look(step)
    last = [r["loss"] for r in records if r["step"] > 0.9 * steps]
    early = [r["log_variance"] for r in records if r["step"] <= 0.5 * steps]
    half = next((r["step"] for r in records if r["loss"] <= 0.5), steps)
    figures = {"loss": sum(last) / len(last), "half": float(half), "log_variance": sum(early) / len(early)}
    return figures, seconds


def train_trees(job: Job) -> Outcome:
    return recorded(job, learn_tree)


TREES = Recipe(
    title="The toy tree: no edge that avoids node 0",
    text=(
        "Spanning trees of 7 nodes are found from 21 scores with Gumbel noise. The loss of a tree is the number of its "
        "edges that do not touch node 0; a star has none. The scores begin at 0 and learn by Adam at 0.01, from 3 "
        "trees in each step. The first figure is the mean loss of trees that the scores give, over the last tenth of "
        "the steps. The second figure is the step at which this mean has fallen to one half, and the third the "
        "logarithm of the variance of a step's gradient, summed over the edges, in the first half of the steps. The "
        "noise score and trace_reinforce subtract the mean loss of the other trees; trace_relax learns a critic of one "
        "hidden layer of 32."
    ),
    rows={method: {"method": method} for method in METHODS},
    train=train_trees,
    figures=(
        Figure("loss", "edges not at node 0", 3),
        Figure("half", "steps to one half", 0),
        Figure("log_variance", "log variance", 2),
    ),
    curves=(
        Figure("train/loss", "edges not at node 0", 3),
        Figure("train/log_variance", "log variance of the gradient", 2),
    ),
    steps=3000,
    published={"loss": {"noise score": "0.103", "trace_reinforce": "0.033"}},
    differences=(
        "The published figures are our run of the authors' code for 3,000 steps: the paper has curves only.",
        "The loss is what the authors' text says; a reshaping in a version of their code compares other numbers.",
        "implicit_mle and stochastic_softmax, which differentiate the loss, are not in the paper.",
    ),
    source="Struminsky et al. 2021, the toy experiment of the authors' code",
)
