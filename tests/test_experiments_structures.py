"""Recipes of structured choices: their pieces against other computations, and a few steps of each."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra

from argumbel.estimators import implicit_mle
from argumbel.experiments import comparison, recipes
from argumbel.experiments.data import Images
from argumbel.experiments.recipes import Job
from argumbel.experiments.run import Run
from argumbel.experiments.structures import RECIPES, _parsing, _paths, _sorting, _subsets, _terrain, _trees
from argumbel.perturbation import perturbed
from argumbel.structures import SpanningTree, Subset

# Shortest paths


def least_cost(costs: Any) -> float:
    """What the shortest path costs, by Dijkstra of scipy on the graph of the cells."""
    height, width = costs.shape
    edges = {}
    for i, j in itertools.product(range(height), range(width)):
        for a, b in itertools.product((-1, 0, 1), repeat=2):
            if (a or b) and 0 <= i + a < height and 0 <= j + b < width:
                edges[i * width + j, (i + a) * width + j + b] = costs[i + a, j + b]
    graph = csr_matrix((list(edges.values()), tuple(zip(*edges, strict=True))), shape=(costs.size, costs.size))
    return costs[0, 0] + dijkstra(graph, indices=0)[-1]


def ends_meet(path: Any) -> bool:
    """Whether the cells are one line from the first corner to the last: neighbours of a cell are before and after."""
    cells = {tuple(cell) for cell in np.argwhere(path)}
    ends = {(0, 0), (path.shape[0] - 1, path.shape[1] - 1)}
    near = {c: sum(max(abs(c[0] - d[0]), abs(c[1] - d[1])) == 1 for d in cells) for c in cells}
    return ends <= cells and all(count == (1 if cell in ends else 2) for cell, count in near.items())


@pytest.mark.parametrize("shape", [(2, 2), (1, 5), (4, 3), (7, 7), (12, 12)])
def test_shortest_paths_agree_with_scipy(shape: tuple[int, int]) -> None:
    costs = np.random.default_rng(0).gamma(0.5, size=(3, 10, *shape)) + _terrain.LEAST
    paths = _terrain.shortest_paths(costs)
    assert paths.shape == costs.shape
    assert paths.dtype == bool
    for cost, path in zip(costs.reshape(-1, *shape), paths.reshape(-1, *shape), strict=True):
        assert ends_meet(path)
        assert (cost * path).sum() == pytest.approx(least_cost(cost))


def test_costs_below_the_least_are_raised_to_it() -> None:
    costs = np.array([[-5.0, -5, 9], [9, -5, 9], [9, 9, 1]])
    assert (_terrain.shortest_paths(costs) == np.eye(3, dtype=bool)).all()
    assert _terrain.shortest_paths(np.ones((1, 1))).all()


def test_grids_show_what_they_cost() -> None:
    terrain = _terrain.Terrain(5)
    seen = {}
    for test in (False, True):
        grids = terrain.draw(8, torch.Generator().manual_seed(0), test=test)
        assert grids.images.shape == (8, 5, 5, 8, 8)
        for image, digit in zip(grids.images.reshape(-1, 64), grids.digits.flatten(), strict=True):
            label = terrain.labels[(terrain.images.reshape(-1, 64) == image).all(-1)]
            assert (label == digit).all()
        cost = _terrain.path_cost(grids.paths, grids.digits)
        for digits, c in zip(grids.digits.clamp(min=1e-4), cost, strict=True):
            assert float(c) == pytest.approx(least_cost(digits.numpy()), abs=0.01)
        seen[test] = {tuple(image.tolist()) for image in grids.images.reshape(-1, 64)}
    assert not seen[False] & seen[True]  # a test shows no image of the training


def test_measure_of_the_true_costs_is_perfect_and_of_equal_costs_is_not() -> None:
    grids = _terrain.Terrain(8).draw(30, torch.Generator().manual_seed(1))
    figures, paths = _paths.measure(lambda images: grids.digits, grids)  # type: ignore[arg-type]
    assert figures == {"optimal": 1, "excess": pytest.approx(0, abs=1e-4)}
    assert torch.equal(_terrain.path_cost(paths, grids.digits), _terrain.path_cost(grids.paths, grids.digits))
    figures, paths = _paths.measure(lambda images: torch.ones_like(grids.digits), grids)  # type: ignore[arg-type]
    assert (paths == torch.eye(8, dtype=torch.bool)).all()
    diagonal = grids.digits.diagonal(dim1=-2, dim2=-1).sum(-1)
    least = _terrain.path_cost(grids.paths, grids.digits)
    assert figures["excess"] == pytest.approx(float(100 * (diagonal.mean() / least.mean() - 1)), rel=1e-5)


def test_costs_are_learned_from_paths() -> None:
    records: list[dict[str, Any]] = []
    settings = {**RECIPES["paths"].rows["fenchel_young_loss, normal factors"], "size": 5, "lr": 0.01, "test_grids": 200}
    figures, seconds = _paths.learn_paths(**settings, seed=0, steps=60, record=records.append)
    assert [r["step"] for r in records] == [0, 50, 60]
    assert records[0]["excess"] > 15
    assert figures["excess"] < 9
    assert figures["optimal"] > records[0]["optimal"] + 0.15
    assert seconds > 0


# Trees


def test_the_loss_of_a_tree_counts_edges_elsewhere() -> None:
    trees = SpanningTree(4).enumerate().double()
    losses = _trees.elsewhere(trees, 4)
    u, v = torch.triu_indices(4, 4, 1)
    assert torch.equal(losses, (trees * ((u > 0) & (v > 0))).sum(-1))
    assert (losses == 0).sum() == 1  # the star


@pytest.mark.parametrize("method", _trees.METHODS[:3])
def test_estimates_of_trees_are_unbiased(method: str) -> None:
    """Against the Jacobian of the mean tree by ``perturbed``, which other tests compare with the enumerated law."""
    generator = torch.Generator().manual_seed(0)
    x = torch.tensor([0.5, -1.0, 0.3, 0.0, 1.2, -0.7])
    critic = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1), torch.nn.Flatten(-2))
    many = x.expand(20_000, 6).clone().requires_grad_()
    (g,) = torch.autograd.grad(_trees.estimate(method, many, 4, 3, critic, generator).sum(), many)
    other = x.expand(200_000, 6).clone().requires_grad_()
    y = perturbed(SpanningTree(4), other, 2, generator=generator)
    (h,) = torch.autograd.grad(_trees.elsewhere(y, 4).sum(), other)
    error = (g.var(0) / len(g) + h.var(0) / len(h)).sqrt()
    assert ((g.mean(0) - h.mean(0)).abs() < 5.5 * error).all()


@pytest.mark.parametrize("method", _trees.METHODS)
def test_every_method_learns_the_star(method: str) -> None:
    records: list[dict[str, Any]] = []
    figures, _ = _trees.learn_tree(method, seed=0, steps=80, nodes=4, lr=0.1, every=20, record=records.append)
    assert [r["step"] for r in records] == [0, 20, 40, 60, 80]
    assert records[0]["loss"] == pytest.approx(1.5, abs=0.15)  # 3 edges, each of 6 equally likely
    assert figures["loss"] < 0.4


# Sorting


def test_mistakes_count_lists_and_places() -> None:
    x = torch.tensor([[0.3, 0.1, 0.2], [0.1, 0.2, 0.3]])
    right = torch.zeros(2, 3, 3)
    for i, places in enumerate(([2, 0, 1], [0, 1, 2])):
        right[i, torch.arange(3), torch.tensor(places)] = 1
    assert _sorting.mistakes(right, x) == {"any_wrong": 0, "wrong": 0}
    swapped = right.clone()
    swapped[0] = swapped[0, :, [1, 0, 2]]
    assert _sorting.mistakes(swapped, x) == {"any_wrong": 0.5, "wrong": pytest.approx(1 / 3)}


def test_five_numbers_are_sorted() -> None:
    figures, _ = _sorting.learn_to_sort(5, seed=0, steps=60, test_lists=200)
    assert figures == {"any_wrong": 0, "wrong": 0}


# Subsets


def small_images() -> Images:
    """Images of two kinds: the left half is white, or the right half."""
    kind = torch.arange(60) % 2
    x = torch.where(torch.arange(16) % 4 // 2 == kind[:, None], 0.95, 0.05)
    return Images("small", (4, 4), x[:40], x[40:50], x[50:], binary=False)


def test_the_divergence_is_that_of_softmax_from_uniform() -> None:
    scores = torch.randn(3, 2, 5)
    q = torch.distributions.Categorical(logits=scores)
    uniform = torch.distributions.Categorical(logits=torch.zeros_like(scores))
    expected = torch.distributions.kl_divergence(q, uniform).sum(-1)
    torch.testing.assert_close(_subsets.divergence(scores), expected)


@pytest.mark.parametrize("row", RECIPES["subsets"].rows)
def test_every_row_of_subsets_learns(row: str) -> None:
    settings = {**RECIPES["subsets"].rows[row], "k": 2, "sets": 3, "items": 4, "batch": 5, "lr": 2e-3}
    records: list[dict[str, Any]] = []
    figures, _ = _subsets.learn_subsets(
        **settings, images=small_images(), seed=0, steps=160, every=75, record=records.append
    )
    assert [r["step"] for r in records] == [75, 150, 160]
    assert figures["train"] < records[0]["loss"]
    assert figures["test"] < 16 * math.log(2) - 4  # without a code, a pixel costs log 2


def test_the_step_without_noise_is_that_of_the_published_code() -> None:
    """By hand: y - y(scores - 10 gradient of the mean loss), not divided, is the gradient of the scores."""
    torch.manual_seed(0)
    model = _subsets.SubsetVAE(16, 3, 4, (8,))
    x = torch.rand(5, 16)
    scores = model.encode(x).detach().requires_grad_()
    y = Subset(2).argmax(scores).requires_grad_()
    (g,) = torch.autograd.grad(model.loss(x, y).mean(), y)
    expected = y - Subset(2).argmax(scores - 10 * g)
    settings = {"sigma": 0.0, "strength": 10 / 5, "symmetric": False}
    loud = scores.detach() + 10 * (scores - scores.detach())
    loss = implicit_mle(lambda y: model.loss(x, y), loud, Subset(2), **settings).mean()  # type: ignore[arg-type]
    (found,) = torch.autograd.grad(loss, scores)
    torch.testing.assert_close(found, expected.detach())


# Parsing


def test_trees_of_a_language_have_one_edge_from_the_root() -> None:
    language = _parsing.Language(length=6, seed=1)
    sentences, trees = language.draw(50, torch.Generator().manual_seed(0))
    assert sentences.shape == (50, 7)
    assert (sentences[:, 0] == 0).all()
    assert (sentences[:, 1:] > 0).all()
    assert (trees.sum(-2)[:, 1:] == 1).all()  # one head for each word
    assert (trees[:, 0].sum(-1) == 1).all()
    assert (_parsing.heads_right(trees, trees) == 1).all()
    other = trees[torch.randperm(50, generator=torch.Generator().manual_seed(0))]
    heads = trees.argmax(-2)[:, 1:] == other.argmax(-2)[:, 1:]
    torch.testing.assert_close(_parsing.heads_right(other, trees), heads.float().mean(-1))
    # Without noise the language decides: the same sentence has the same tree.
    assert language.scores(sentences).shape == trees.shape


@pytest.mark.parametrize("method", _parsing.METHODS)
def test_every_method_learns_to_parse(method: str) -> None:
    records: list[dict[str, Any]] = []
    settings = {"length": 4, "test_sentences": 200, "lr": 0.1}
    figures, _ = _parsing.learn_to_parse(method, **settings, seed=0, steps=150, record=records.append)
    assert figures["heads"] > records[0]["heads"] + 0.1
    assert figures["heads"] < figures["possible"] + 0.05


# All recipes


@pytest.mark.parametrize("name", RECIPES)
def test_a_few_steps_of_each_recipe_give_its_figures_curves_and_picture(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_subsets, "load", lambda *_: small_images())
    recipe = RECIPES[name]
    assert recipes.RECIPES[name] is recipe
    label, settings = next(iter(recipe.rows.items()))
    job = Job(name, label, {**settings, **SMALL[name]}, 0, 2, tmp_path / "run")
    outcome = recipe.train(job)
    assert outcome is not None
    again = recipe.train(job)
    assert again is not None
    assert again.figures == outcome.figures
    assert outcome.figures.keys() >= {figure.key for figure in recipe.figures}
    records = list(Run(job.folder).records())
    for curve in recipe.curves:
        assert comparison._points(curve, [records]), curve.key
    if recipe.picture is not None:
        assert recipe.picture({label: Run(tmp_path)}) is None
    run = {"folder": "run", "figures": outcome.figures, "job": {"seed": 0}}
    summary = {"steps": 2, "rows": [{"row": label, "runs": [run], "figures": {}, "milliseconds": 1.0}]}
    page = comparison.write(recipe, summary, tmp_path).read_text()
    assert page.count("data:image/png") == (1 if recipe.picture is None else 2)
    assert recipe.picture is None or f"<h2>{recipe.picture_title}</h2>" in page


SMALL: dict[str, dict[str, Any]] = {
    "paths": {"size": 4, "batch": 2, "test_grids": 5},
    "trees": {"nodes": 4, "repeats": 3},
    "sorting": {"length": 3, "test_lists": 5},
    "subsets": {"k": 2, "sets": 3, "items": 4, "batch": 5},
    "parsing": {"length": 3, "batch": 2, "test_sentences": 5},
}
