"""The public surface: every name, every signature, and that each is documented with an example."""

from __future__ import annotations

import doctest
import inspect
import re
import subprocess
import sys
from types import ModuleType

import pytest

import argumbel as ag
from argumbel import (
    astar,
    choice,
    coupling,
    data,
    lazy,
    linear,
    noise,
    partition,
    perturbation,
    relax,
    reverse,
    sequences,
    structures,
    subsets,
)

SIGNATURES = {
    "KeyedNoise": "(seed, rows=None, items=None)",
    "astar_sample": (
        "(target, num_samples=1, *, method='a*', keep=False, max_steps=100000, noise=None, generator=None)"
    ),
    "categorical": "(logits, sample_shape=(), *, temperature=1, top_k=None, top_p=None, min_p=None, dim=-1, mask=None, "
    "generator=None)",
    "counterfactual": "(logits, index, new_logits, num_samples=1, *, dim=-1, mask=None, noise=None, generator=None)",
    "fenchel_young_loss": "(scores, target, solver, num_samples=1, *, sigma=1, law='gumbel', multiplicative=False, "
    "args=(), mask=None, noise=None, generator=None)",
    "gumbel": "(shape, *, generator=None, dtype=None, device=None)",
    "gumbel_max": "(logits, *, temperature=1, top_k=None, top_p=None, min_p=None, dim=-1, mask=None, noise=None, "
    "generator=None)",
    "gumbel_sigmoid": "(logits, tau=1, hard=False, *, noise=None, generator=None)",
    "gumbel_softmax": ("(logits, tau=1, hard=False, eps=1e-10, dim=-1, *, mask=None, noise=None, generator=None)"),
    "gumbel_topk": "(logits, k, *, temperature=1, dim=-1, mask=None, noise=None, generator=None)",
    "inclusion_probs": "(logits, k, *, dim=-1, mask=None)",
    "linear_categorical": "(hidden, weight, *, bias=None, temperature=1, noise=None, generator=None)",
    "linear_gumbel_max": "(hidden, weight, *, bias=None, temperature=1, noise=None, generator=None)",
    "log_partition": "(maxima, *, method='exponential', alpha=None, dim=0)",
    "merge_winners": "(values, indices, *, group=None)",
    "perturb_and_map": "(score, solver, unary, num_samples, *, noise=None, generator=None)",
    "perturbed": "(solver, scores, num_samples=1, *, sigma=1, law='gumbel', multiplicative=False, "
    "control='leave-one-out', args=(), mask=None, noise=None, generator=None)",
    "perturbed_argmax": "(structure, scores, *, mask=None, noise=None, generator=None)",
    "posterior_gumbel": "(logits, index, *, value=None, dim=-1, mask=None, noise=None, generator=None)",
    "posterior_gumbel_topk": "(logits, indices, *, dim=-1, mask=None, noise=None, generator=None)",
    "posterior_gumbel_trace": "(scores, trace, *, mask=None, noise=None, generator=None)",
    "relaxed_topk": (
        "(logits, k, tau=1, hard=False, dim=-1, *, method='marginals', mask=None, noise=None, generator=None)"
    ),
    "sample_without_replacement": "(logits, k, sample_shape=(), *, dim=-1, mask=None, generator=None)",
    "stochastic_softmax": "(structure, scores, tau=1, hard=False, *, method=None, mask=None, noise=None, "
    "generator=None)",
    "straight_through": "(logits, *, method='gumbel', tau=1, dim=-1, mask=None, noise=None, generator=None, **own)",
    "threshold_weights": "(values, logits, *, dim=-1)",
    "topk_log_prob": "(logits, indices, *, ordered=True, dim=-1, mask=None)",
    "trace_log_prob": "(scores, trace, *, mask=None)",
    "truncated_gumbel": "(loc, upper, *, noise=None, generator=None)",
}
METHODS = {
    "gumbel": "(self, shape, *, dtype=None, device=None)",
    "exponential": "(self, shape, *, dtype=None, device=None)",
    "uniform": "(self, shape, *, dtype=None, device=None)",
    "logistic": "(self, shape, *, dtype=None, device=None)",
}
MODULES = {
    noise: {"KeyedNoise", "gumbel", "logistic", "truncated_gumbel"},
    choice: {"Choice", "categorical", "gumbel_max", "gumbel_topk", "sample_without_replacement"},
    linear: {"linear_categorical", "linear_gumbel_max", "merge_winners"},
    subsets: {
        "PriorityDraw",
        "WeightedSum",
        "inclusion_probs",
        "priority_sample",
        "threshold_estimate",
        "threshold_weights",
        "topk_log_prob",
    },
    relax: {"gumbel_sigmoid", "gumbel_softmax", "log_gumbel_softmax", "relaxed_topk", "straight_through"},
    reverse: {
        "Perturbed",
        "condition_max",
        "inverse_cdf_gumbel",
        "posterior_gumbel",
        "posterior_gumbel_subset",
        "posterior_gumbel_topk",
        "posterior_noise",
        "top_down",
    },
    coupling: {
        "Coupled",
        "agreement_prob",
        "counterfactual",
        "counterfactual_probs",
        "gumbel_coupling",
        "maximal_coupling",
    },
    partition: {"Estimate", "PerturbAndMAP", "log_partition", "perturb_and_map"},
    sequences: {
        "Beams",
        "Speculation",
        "Step",
        "Unmasked",
        "WatermarkScores",
        "accepted",
        "context_rows",
        "counterfactual_text",
        "expand",
        "next_tokens",
        "speculative_decode",
        "stochastic_beam_search",
        "truncate",
        "unmask",
        "watermark",
        "watermark_p_value",
        "watermark_scores",
    },
    perturbation: {"Solver", "fenchel_young_loss", "perturbed"},
    structures: {
        "Arborescence",
        "BestSequence",
        "BinaryTree",
        "Chain",
        "CorrelatedSubset",
        "Matching",
        "OneHot",
        "PerturbedArgmax",
        "ProjectiveTree",
        "Ranking",
        "SpanningTree",
        "Structure",
        "Subset",
        "Trace",
        "chain_scores",
        "neural_sort",
        "perturbed_argmax",
        "posterior_gumbel_trace",
        "soft_sort",
        "stochastic_softmax",
        "trace_log_prob",
    },
    data: {"WeightedSampler"},
    lazy: {"LazyDraw", "Top", "lazy_categorical", "search_top"},
    astar: {
        "AStarDraw",
        "AStarDraws",
        "Box",
        "NormalTarget",
        "Target",
        "UniformTarget",
        "astar_sample",
        "astar_stream",
        "linear_range",
    },
}
RECORDS = {  # what functions return, or protocols: shown where they are used
    *("Choice", "PriorityDraw", "WeightedSum", "Perturbed", "Coupled", "Estimate", "PerturbAndMAP", "LazyDraw", "Top"),
    *("AStarDraw", "AStarDraws", "Box", "Target"),
    *("Beams", "Speculation", "Step", "WatermarkScores"),
    *("BestSequence", "PerturbedArgmax", "Structure", "Trace", "Unmasked"),
}


def shape_of(function: object) -> str:
    """The signature without its types."""
    signature = inspect.signature(function)
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def test_exports() -> None:
    exported = {name for name in ag.__all__ if not isinstance(getattr(ag, name), ModuleType)}
    assert exported == set(SIGNATURES)
    assert len(ag.__all__) == len(set(ag.__all__))


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name: str) -> None:
    assert shape_of(getattr(ag, name)) == SIGNATURES[name]


@pytest.mark.parametrize("name", METHODS)
def test_methods(name: str) -> None:
    assert shape_of(getattr(ag.KeyedNoise, name)) == METHODS[name]
    assert inspect.getdoc(getattr(ag.KeyedNoise, name))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_modules(module: ModuleType) -> None:
    assert set(module.__all__) == MODULES[module]
    for name in MODULES[module] & set(ag.__all__):
        assert getattr(module, name) is getattr(ag, name)


@pytest.mark.parametrize(("module", "name"), [(m, n) for m, names in MODULES.items() for n in sorted(names - RECORDS)])
def test_every_function_is_typed_and_has_an_example_and_a_source(module: ModuleType, name: str) -> None:
    function = getattr(module, name)
    text = inspect.getdoc(function)
    assert doctest.DocTestParser().get_examples(text)
    signature = inspect.signature(function)
    assert all(p.annotation is not p.empty for p in signature.parameters.values())
    if name in SIGNATURES:
        assert "Source:" in text
        assert "Raises:" in text
    if inspect.isfunction(function):
        assert signature.return_annotation is not signature.empty


SUBMODULES = {
    *("astar", "choice", "coupling", "data", "distributions", "estimators", "kernels", "lazy", "linear", "nn", "noise"),
    *("partition", "perturbation", "plots", "relax", "reverse", "schedules", "sequences", "structures", "subsets"),
    "tables",
}


def test_submodules_need_no_import_of_their_own() -> None:
    assert {name for name in ag.__all__ if isinstance(getattr(ag, name), ModuleType)} == SUBMODULES
    assert set(dir(ag)) == {*ag.__all__, "__version__"}
    with pytest.raises(AttributeError, match="module 'argumbel' has no attribute 'gumble'"):
        _ = ag.gumble
    code = "import argumbel as ag; print(ag.nn.GumbelSoftmax.__name__, ag.schedules.Exponential.__name__, ag.lazy.Top)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True)


def test_the_table_of_contents_names_everything() -> None:
    assert {name for name in ag.__all__ if not re.search(rf"\b{name}\b", ag.__doc__ or "")} == set()


def randomness_of(function: object) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name in ("dim", "mask", "noise", "generator")]


def test_randomness_comes_last_in_every_signature() -> None:
    """``..., dim, mask, noise, generator``, in this order, wherever they are."""
    seen = 0
    for name in sorted(SUBMODULES - {"kernels"}):
        module = getattr(ag, name)
        for thing in (getattr(module, n) for n in module.__all__):
            if not inspect.isfunction(thing):
                continue
            order = randomness_of(thing)
            assert order == sorted(order, key=["dim", "mask", "noise", "generator"].index), thing
            if "generator" in order:
                last = [p for p in inspect.signature(thing).parameters if p != "own"][-1]
                assert last == "generator" or name == "noise", thing
                seen += 1
    assert seen > 40


def test_version() -> None:
    from importlib.metadata import version

    assert ag.__version__ == version("argumbel")
