"""Contestants on a GPU: what a user of PyTorch writes, eager and compiled, and the kernels of others where installed.

Samplers from probabilities get them in float32, made outside the time, as the samplers of inference servers do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import argumbel as ag

from ..peers import F_GUMBEL_SOFTMAX, HOW, Call, Peer, peer
from ..problem import Problem

PEERS: defaultdict[str, list[Peer]] = defaultdict(list)
gpu_peer = partial(peer, table=PEERS)

# Names that targets refer to.
RACE = "probs / exponential_, argmax, compiled"
RACE_HALF = "the same, but probs in bfloat16, so that they tie"
ARGMAX = "torch.argmax"
F_COMPILED = f"{F_GUMBEL_SOFTMAX}, compiled"
LINEAR = "F.linear alone"


def compiled(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """By Inductor, for the very size. On the CPU, in a dry run, it is traced and no more: C++ takes long to compile."""
    # A function around it: PyTorch 2.4 refuses one of its own, as F.gumbel_softmax is.
    return torch.compile(
        lambda *args, **options: function(*args, **options),
        dynamic=False,
        backend="inductor" if device.type == "cuda" else "eager",
    )


def race(probs: Tensor) -> Tensor:
    return (probs / torch.empty_like(probs).exponential_()).argmax(-1)


def perturbed(logits: Tensor) -> Tensor:
    """float32, as winners in half precision would tie."""
    x = logits.float()
    return x - torch.empty_like(x).exponential_().log()


def gumbel_race(logits: Tensor) -> Tensor:
    return perturbed(logits).argmax(-1)


# ------------------------------------------------------------------------------------------------------ noise and races


@gpu_peer("-empty.exponential_().log()", "noise")
def _(p: Problem) -> Call:
    return lambda: -torch.empty_like(p.logits).exponential_().log()


@gpu_peer("-empty.exponential_().log(), compiled", "noise")
def _(p: Problem) -> Call:
    function = compiled(lambda x: -torch.empty_like(x).exponential_().log(), p.device)
    return lambda: function(p.logits)


@gpu_peer("empty.zero_()", "noise", floor=True)
def _(p: Problem) -> Call:
    return lambda: torch.empty_like(p.logits).zero_()


@gpu_peer(RACE, "categorical")
def _(p: Problem) -> Call:
    probs, function = p.probs, compiled(race, p.device)
    return lambda: function(probs)


@gpu_peer(RACE_HALF, "categorical")
def _(p: Problem) -> Call:
    probs, function = p.probs.bfloat16(), compiled(race, p.device)
    return lambda: function(probs)


@gpu_peer("probs / exponential_, argmax", "categorical")
def _(p: Problem) -> Call:
    probs = p.probs
    return lambda: race(probs)


@gpu_peer("(logits + Gumbel noise).argmax, compiled", "categorical")
def _(p: Problem) -> Call:
    function = compiled(gumbel_race, p.device)
    return lambda: function(p.logits)


@gpu_peer("multinomial(probs, 1)", "categorical")
def _(p: Problem) -> Call:
    probs = p.probs
    return lambda: torch.multinomial(probs, 1)


@gpu_peer("multinomial(softmax(logits), 1)", "categorical")
def _(p: Problem) -> Call:
    return lambda: torch.multinomial(torch.softmax(p.logits, -1, dtype=torch.float32), 1)


def flashinfer_logits(logits: Tensor) -> Tensor:
    import flashinfer

    return flashinfer.sampling.sampling_from_logits(logits.float())  # it takes float32 alone


def flashinfer_probs(probs: Tensor) -> Tensor:
    import flashinfer

    return flashinfer.sampling.sampling_from_probs(probs)


@gpu_peer("sampling_from_logits", "categorical", library="flashinfer")
def _(p: Problem) -> Call:
    return lambda: flashinfer_logits(p.logits)


@gpu_peer("sampling_from_probs", "categorical", library="flashinfer")
def _(p: Problem) -> Call:
    probs = p.probs
    return lambda: flashinfer_probs(probs)


@gpu_peer("gumbel_sample", "categorical", "gumbel_max", library="vllm")
def _(p: Problem) -> Call:
    """Its noise depends on the seed and the position; where they come from is the server's business."""
    from vllm.v1.worker.gpu.sample.gumbel import gumbel_sample

    rows = torch.arange(len(p.logits), device=p.device)
    ids, ones = rows.int(), torch.ones(len(rows), device=p.device)
    rest = {"apply_temperature": False, "is_drafting": False}
    return lambda: gumbel_sample(p.logits, ids, temperature=ones, seed=rows, pos=rows, **rest)


@gpu_peer("(logits + Gumbel noise).max", "gumbel_max")
def _(p: Problem) -> Call:
    return lambda: perturbed(p.logits).max(-1)


@gpu_peer("(logits + Gumbel noise).max, compiled", "gumbel_max")
def _(p: Problem) -> Call:
    function = compiled(lambda x: perturbed(x).max(-1), p.device)
    return lambda: function(p.logits)


@gpu_peer("(logits + Gumbel noise).topk", "gumbel_topk")
def _(p: Problem) -> Call:
    return lambda: perturbed(p.logits).topk(p.k, -1)


@gpu_peer("(logits + Gumbel noise).topk, compiled", "gumbel_topk")
def _(p: Problem) -> Call:
    function = compiled(lambda x: perturbed(x).topk(p.k, -1), p.device)
    return lambda: function(p.logits)


@gpu_peer("torch.topk(logits)", "gumbel_topk", floor=True)
def _(p: Problem) -> Call:
    return lambda: p.logits.topk(p.k, -1)


@gpu_peer(ARGMAX, "categorical", "gumbel_max", floor=True)
def _(p: Problem) -> Call:
    return lambda: p.logits.argmax(-1)


@gpu_peer("copy_", "categorical", "gumbel_max", "gumbel_softmax", floor=True)
def _(p: Problem) -> Call:
    target = torch.empty_like(p.logits)
    return lambda: target.copy_(p.logits)


# ----------------------------------------------------------------------------------------------------------- relaxation


def _softmax_peers(op: str) -> None:
    run, hard = HOW[op]

    @gpu_peer(F_GUMBEL_SOFTMAX, op)
    def _(p: Problem) -> Call:
        return run(p, lambda x: F.gumbel_softmax(x, p.tau, hard))

    @gpu_peer(F_COMPILED, op)
    def _(p: Problem) -> Call:
        function = compiled(F.gumbel_softmax, p.device)
        return run(p, lambda x: function(x, p.tau, hard))


_softmax_peers("gumbel_softmax")
_softmax_peers("gumbel_softmax + backward")


# -------------------------------------------------------------------------------------------------------- linear layers


def _from_logits(name: str, *ops: str, library: str = "torch", compile_it: bool = False) -> Callable[[Any], Any]:
    """A matrix product and then a sampler, compiled as a whole where it is compiled."""

    def add(sampler: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
        @gpu_peer(f"F.linear, {name}", *ops, library=library)
        def _(p: Problem) -> Call:
            def function(hidden: Tensor, weight: Tensor) -> Any:
                return sampler(F.linear(hidden, weight))

            run = compiled(function, p.device) if compile_it else function
            return lambda: run(p.hidden, p.weight)

        return add

    return add


_from_logits("softmax / exponential_, argmax, compiled", "linear_categorical", compile_it=True)(
    lambda x: race(torch.softmax(x, -1, dtype=torch.float32))
)
_from_logits("(logits + Gumbel noise).argmax, compiled", "linear_categorical", compile_it=True)(gumbel_race)
_from_logits("multinomial(softmax, 1)", "linear_categorical")(
    lambda x: torch.multinomial(torch.softmax(x, -1, dtype=torch.float32), 1)
)
_from_logits("argumbel.categorical", "linear_categorical")(lambda x: ag.categorical(x))
_from_logits("sampling_from_logits", "linear_categorical", library="flashinfer")(flashinfer_logits)
_from_logits("(logits + Gumbel noise).max, compiled", "linear_gumbel_max", compile_it=True)(
    lambda x: perturbed(x).max(-1)
)
_from_logits("argumbel.gumbel_max", "linear_gumbel_max")(lambda x: ag.gumbel_max(x))


@gpu_peer(LINEAR, "linear_categorical", "linear_gumbel_max", floor=True)
def _(p: Problem) -> Call:
    return lambda: F.linear(p.hidden, p.weight)
