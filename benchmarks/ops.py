"""The operations of this library that are measured: the call, and the check it has to pass first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import argumbel as ag

from . import laws
from .peers import HOW, Call
from .problem import Problem


@dataclass(frozen=True)
class Op:
    name: str
    ours: Callable[[Problem], Call]
    check: Callable[[Problem], None]


OPS: dict[str, Op] = {}


def op(name: str, check: Callable[[Problem], None]) -> Callable[[Any], Any]:
    def add(ours: Callable[[Problem], Call]) -> Callable[[Problem], Call]:
        OPS[name] = Op(name, ours, check)
        return ours

    return add


def _check_noise(p: Problem) -> None:
    def noise(generator: torch.Generator) -> Tensor:
        return ag.gumbel(p.size.shape, dtype=p.size.dtype, generator=generator)

    laws.check_noise(noise, p.size.dtype, p.device)


@op("noise", _check_noise)
def _(p: Problem) -> Call:
    return lambda: ag.gumbel(p.size.shape, dtype=p.size.dtype, device=p.device)


def _check_categorical(p: Problem) -> None:
    generator = p.generator(6)
    laws.check_few_items(p.size.dtype, lambda x, g: ag.categorical(x, generator=g), p.device)
    laws.check_categorical(p.logits, laws.repeat(lambda: ag.categorical(p.logits, generator=generator), 5000))


@op("categorical", _check_categorical)
def _(p: Problem) -> Call:
    return lambda: ag.categorical(p.logits)


def _check_many(p: Problem) -> None:
    def draw(logits: Tensor, generator: torch.Generator) -> Tensor:
        return ag.categorical(logits[0], (len(logits),), generator=generator)

    laws.check_few_items(p.size.dtype, draw)
    indices = ag.categorical(p.logits, (p.draws,), generator=torch.Generator().manual_seed(6))
    laws.check_categorical(p.logits.unsqueeze(0), indices.unsqueeze(-1))


@op("categorical, many draws", _check_many)
def _(p: Problem) -> Call:
    return lambda: ag.categorical(p.logits, (p.draws,))


def _check_gumbel_max(p: Problem) -> None:
    noise, keys = laws.keyed(p.logits)
    values, indices = ag.gumbel_max(p.logits, noise=noise)
    laws.check_race(values.unsqueeze(-1), indices.unsqueeze(-1), keys, 1)
    laws.check_few_items(p.size.dtype, lambda x, g: ag.gumbel_max(x, generator=g).indices, p.device)


@op("gumbel_max", _check_gumbel_max)
def _(p: Problem) -> Call:
    return lambda: ag.gumbel_max(p.logits)


def _check_gumbel_topk(p: Problem) -> None:
    noise, keys = laws.keyed(p.logits)
    laws.check_race(*ag.gumbel_topk(p.logits, p.k, noise=noise), keys, p.k)
    laws.check_few_items(p.size.dtype, lambda x, g: ag.gumbel_topk(x, 2, generator=g).indices[..., 0], p.device)


@op("gumbel_topk", _check_gumbel_topk)
def _(p: Problem) -> Call:
    return lambda: ag.gumbel_topk(p.logits, p.k)


def _check_without_replacement(p: Problem) -> None:
    generator = torch.Generator().manual_seed(7)

    def first(x: Tensor, g: torch.Generator) -> Tensor:
        return ag.sample_without_replacement(x, 2, generator=g).indices[..., 0]

    laws.check_few_items(p.size.dtype, first)
    laws.check_without_replacement(
        p.logits, p.k, lambda: ag.sample_without_replacement(p.logits, p.k, generator=generator)
    )


@op("sample_without_replacement", _check_without_replacement)
def _(p: Problem) -> Call:
    return lambda: ag.sample_without_replacement(p.logits, p.k)


def _check_gumbel_softmax(p: Problem, hard: bool, backward: bool) -> None:
    noise, keys = laws.keyed(p.logits)
    ours = ag.gumbel_softmax(p.leaf, p.tau, hard, noise=noise)
    plain, exact = (x.detach().requires_grad_() for x in (keys, keys.double()))
    soft, truth = torch.softmax(plain / p.tau, -1), torch.softmax(exact / p.tau, -1)
    if hard:
        one_hot = torch.zeros_like(ours).scatter(-1, keys.argmax(-1, keepdim=True), 1.0)
        assert torch.equal(ours, one_hot), "not the one-hot of the winner"
    else:
        laws.check_close(ours.detach(), soft.detach(), truth.detach())
    if backward:
        up = p.upstream
        laws.check_close(
            torch.autograd.grad(ours, p.leaf, up)[0],
            torch.autograd.grad(soft, plain, up.float())[0],
            torch.autograd.grad(truth, exact, up.double())[0],
        )
    laws.check_few_items(p.size.dtype, lambda x, g: ag.gumbel_softmax(x, p.tau, hard, generator=g).argmax(-1), p.device)


def _softmax_op(name: str) -> None:
    run, hard = HOW[name]

    @op(name, lambda p: _check_gumbel_softmax(p, hard, backward="backward" in name))
    def _(p: Problem) -> Call:
        return run(p, lambda x: ag.gumbel_softmax(x, p.tau, hard))


for _name in HOW:
    _softmax_op(_name)


def _check_posterior(p: Problem) -> None:
    """The race given a winner who was drawn has the law of logits + noise, and that winner."""
    winners = ag.categorical(p.logits, generator=torch.Generator().manual_seed(8))
    values = ag.posterior_gumbel(p.logits, winners, noise=ag.KeyedNoise(9))
    assert torch.equal(values.argmax(-1), winners)
    laws.check_gumbel(values.amax(-1).double() - torch.logsumexp(p.logits.double(), -1))
    laws.check_gumbel((values.double() - p.logits.double()).flatten()[:1_000_000])


@op("posterior_gumbel", _check_posterior)
def _(p: Problem) -> Call:
    winners = ag.categorical(p.logits)
    return lambda: ag.posterior_gumbel(p.logits, winners)


# Of their own, since their peer is the same operation of float32 logits.
op("categorical, float64", _check_categorical)(OPS["categorical"].ours)
op("gumbel_max, float64", _check_gumbel_max)(OPS["gumbel_max"].ours)
op("gumbel_topk, float64", _check_gumbel_topk)(OPS["gumbel_topk"].ours)
op("posterior_gumbel, float64", _check_posterior)(OPS["posterior_gumbel"].ours)


def _check_linear_categorical(p: Problem) -> None:
    generator = p.generator(10)
    draws = laws.repeat(lambda: ag.linear_categorical(p.hidden, p.weight, generator=generator), 5000)
    laws.check_categorical(p.exact_logits, draws)


@op("linear_categorical", _check_linear_categorical)
def _(p: Problem) -> Call:
    return lambda: ag.linear_categorical(p.hidden, p.weight)


def _check_linear_gumbel_max(p: Problem) -> None:
    """The winner, or one that lies below it by no more than what sums of so many products may be off."""
    noise, keys = laws.keyed(p.exact_logits)
    values, indices = ag.linear_gumbel_max(p.hidden, p.weight, noise=noise)
    own = keys.gather(-1, indices.unsqueeze(-1)).squeeze(-1)
    for what, other in (("the best key", keys.amax(-1)), ("the value returned", values)):
        off = float((other - own).abs().max())
        assert off < 1e-3, f"the winner's key and {what} differ by {off:.1e}"


@op("linear_gumbel_max", _check_linear_gumbel_max)
def _(p: Problem) -> Call:
    return lambda: ag.linear_gumbel_max(p.hidden, p.weight)
