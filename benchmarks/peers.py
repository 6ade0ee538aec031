"""Contestants from other libraries. Each is a few lines that a user of that library would write.

A peer is a function of a ``Problem`` that returns the call to be timed. What it does before returning (converting
inputs, compiling, opening a database) is not timed; what a user would have to do on every new input is.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata, util
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical, Gumbel, RelaxedOneHotCategorical

import argumbel as ag

from .problem import Problem

Call = Callable[[], Any]


@dataclass(frozen=True)
class Peer:
    """``make(problem)()`` is one call. A floor does less than the operation: it reads the same logits once."""

    name: str
    library: str
    make: Callable[[Problem], Call]
    floor: bool = False

    @property
    def present(self) -> bool:
        return util.find_spec(self.library) is not None


def version(library: str) -> str:
    return metadata.version(library)


PEERS: defaultdict[str, list[Peer]] = defaultdict(list)

# Names that targets refer to.
CATEGORICAL = "Categorical(logits=).sample()"
RACE = "softmax / exponential_, argmax"
SEARCHSORTED = "searchsorted(softmax.cumsum, rand)"
LOGSUMEXP = "torch.logsumexp"
LOG_EXPONENTIAL = "-empty.exponential_().log()"
F_GUMBEL_SOFTMAX = "F.gumbel_softmax"
ARGPARTITION = "argpartition(standard_exponential / w)"
ALIAS = "DiscreteAliasUrn, set-up and draws"
MULTINOMIAL_MANY = "multinomial(w, m, True)"
SEARCHSORTED_MANY = "searchsorted(cumsum, rand)"
SEARCHSORTED_SORTED = "searchsorted(cumsum, sorted random)"
OUR_NOISE = "argumbel.gumbel of the same shape"
OUR_MAX = "argumbel.gumbel_max of the same logits"
OURS_IN_FLOAT32 = "the same of float32 logits"


def peer(
    name: str, *ops: str, library: str = "torch", floor: bool = False, table: defaultdict[str, list[Peer]] = PEERS
) -> Callable[[Any], Any]:
    def add(make: Callable[[Problem], Call]) -> Callable[[Problem], Call]:
        for op in ops:
            table[op].append(Peer(name, library, make, floor))
        return make

    return add


def jitted(function: Callable[..., Any], *arguments: Any) -> Call:
    """A compiled jax call with a fresh seed each time; data are arguments, since captured constants would be folded."""
    import jax

    compiled = jax.jit(lambda seed, *rest: function(jax.random.key(seed), *rest))
    seeds = itertools.count()
    return lambda: jax.block_until_ready(compiled(next(seeds), *arguments))


# ---------------------------------------------------------------------------------------------------------------- noise


@peer(LOG_EXPONENTIAL, "noise")
def _(p: Problem) -> Call:
    return lambda: -torch.empty_like(p.logits).exponential_().log()


@peer("distributions.Gumbel(0, 1).sample()", "noise")
def _(p: Problem) -> Call:
    zero, one = torch.zeros((), dtype=p.size.dtype), torch.ones((), dtype=p.size.dtype)
    return lambda: Gumbel(zero, one).sample(p.size.shape)


@peer("rng.gumbel (float64)", "noise", library="numpy")
def _(p: Problem) -> Call:
    rng = np.random.default_rng(0)
    return lambda: rng.gumbel(size=p.size.shape)


def numpy_gumbel32(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    with np.errstate(divide="ignore"):  # it draws exact zeros
        return -np.log(rng.standard_exponential(shape, dtype=np.float32))


@peer("-log(rng.standard_exponential(float32))", "noise", library="numpy")
def _(p: Problem) -> Call:
    rng = np.random.default_rng(0)
    return lambda: numpy_gumbel32(rng, p.size.shape)


def _jax_gumbel(mode: str) -> Callable[[Problem], Call]:
    def make(p: Problem) -> Call:
        import jax

        return jitted(lambda key: jax.random.gumbel(key, p.size.shape, p.jax_logits.dtype, mode=mode))

    return make


peer("random.gumbel, low", "noise", library="jax")(_jax_gumbel("low"))
peer("random.gumbel, high", "noise", library="jax")(_jax_gumbel("high"))


# --------------------------------------------------------------------------------------------------- one draw for a row


@peer(CATEGORICAL, "categorical")
def _(p: Problem) -> Call:
    return lambda: Categorical(logits=p.logits).sample()


@peer("multinomial(softmax, 1)", "categorical")
def _(p: Problem) -> Call:
    return lambda: torch.multinomial(torch.softmax(p.logits, -1), 1).squeeze(-1)


def exponential_race(logits: Tensor) -> Tensor:
    probs = torch.softmax(logits, -1)
    return (probs / torch.empty_like(probs).exponential_()).argmax(-1)


@peer(RACE, "categorical", "gumbel_max", "categorical, float64", "gumbel_max, float64")
def _(p: Problem) -> Call:
    return lambda: exponential_race(p.logits)


def inversion(logits: Tensor) -> Tensor:
    cumulative = torch.softmax(logits, -1).cumsum(-1)
    u = torch.rand((*logits.shape[:-1], 1), dtype=logits.dtype, device=logits.device)
    return torch.searchsorted(cumulative, u).squeeze(-1).clamp_(max=logits.shape[-1] - 1)


@peer(SEARCHSORTED, "categorical")
def _(p: Problem) -> Call:
    return lambda: inversion(p.logits)


@peer("(logits + Gumbel noise).max", "gumbel_max")
def _(p: Problem) -> Call:
    return lambda: (p.logits - torch.empty_like(p.logits).exponential_().log()).max(-1)


def _jax_categorical(mode: str) -> Callable[[Problem], Call]:
    def make(p: Problem) -> Call:
        import jax

        return jitted(lambda key, x: jax.random.categorical(key, x, mode=mode), p.jax_logits)

    return make


peer("random.categorical, low", "categorical", "gumbel_max", library="jax")(_jax_categorical("low"))
peer("random.categorical, high", "categorical", "gumbel_max", library="jax")(_jax_categorical("high"))


@peer("torch.amax", "categorical", "gumbel_max", floor=True)
def _(p: Problem) -> Call:
    return lambda: p.logits.amax(-1)


@peer("torch.max", "categorical", "gumbel_max", floor=True)
def _(p: Problem) -> Call:
    return lambda: torch.max(p.logits, -1)


@peer(LOGSUMEXP, "categorical", "gumbel_max", floor=True)
def _(p: Problem) -> Call:
    return lambda: torch.logsumexp(p.logits, -1)


# ---------------------------------------------------------------------------------------------- many draws from one row


@peer(ALIAS, "categorical, many draws", library="scipy")
def _(p: Problem) -> Call:
    from scipy.stats.sampling import DiscreteAliasUrn

    return lambda: DiscreteAliasUrn(p.weights64, random_state=np.random.default_rng(0)).rvs(p.draws)


@peer("DiscreteAliasUrn, draws alone", "categorical, many draws", library="scipy", floor=True)
def _(p: Problem) -> Call:
    from scipy.stats.sampling import DiscreteAliasUrn

    urn = DiscreteAliasUrn(p.weights64, random_state=np.random.default_rng(0))
    return lambda: urn.rvs(p.draws)


@peer(MULTINOMIAL_MANY, "categorical, many draws")
def _(p: Problem) -> Call:
    return lambda: torch.multinomial(p.weights, p.draws, True)


@peer(SEARCHSORTED_MANY, "categorical, many draws")
def _(p: Problem) -> Call:
    def call() -> Tensor:
        cumulative = p.weights.cumsum(-1)
        return torch.searchsorted(cumulative, torch.rand(p.draws) * cumulative[-1]).clamp_(max=len(cumulative) - 1)

    return call


@peer(SEARCHSORTED_SORTED, "categorical, many draws", library="numpy")
def _(p: Problem) -> Call:
    rng = np.random.default_rng(0)

    def call() -> Any:
        cumulative = np.cumsum(p.weights64)
        return np.searchsorted(cumulative, np.sort(rng.random(p.draws)) * cumulative[-1])

    return call


@peer("random.choice(p=)", "categorical, many draws", library="jax")
def _(p: Problem) -> Call:
    import jax

    return jitted(lambda key, probs: jax.random.choice(key, len(probs), (p.draws,), p=probs), p.jax_probs)


# -------------------------------------------------------------------------------------------------- without replacement


@peer("(logits + Gumbel noise).topk", "gumbel_topk", "gumbel_topk, float64")
def _(p: Problem) -> Call:
    return lambda: (p.logits - torch.empty_like(p.logits).exponential_().log()).topk(p.k, -1)


@peer("top_k(logits + random.gumbel)", "gumbel_topk", library="jax")
def _(p: Problem) -> Call:
    import jax

    return jitted(lambda key, x: jax.lax.top_k(x + jax.random.gumbel(key, x.shape), p.k), p.jax_logits)


def _our_max(p: Problem) -> Call:
    return lambda: ag.gumbel_max(p.logits)


peer(OUR_MAX, "gumbel_topk", library="argumbel", floor=True)(_our_max)


@peer(OURS_IN_FLOAT32, "categorical, float64", library="argumbel", floor=True)
def _(p: Problem) -> Call:
    logits = p.logits.float()
    return lambda: ag.categorical(logits)


@peer(OURS_IN_FLOAT32, "gumbel_max, float64", library="argumbel", floor=True)
def _(p: Problem) -> Call:
    logits = p.logits.float()
    return lambda: ag.gumbel_max(logits)


@peer(OURS_IN_FLOAT32, "gumbel_topk, float64", library="argumbel", floor=True)
def _(p: Problem) -> Call:
    logits = p.logits.float()
    return lambda: ag.gumbel_topk(logits, p.k)


@peer("torch.topk(logits)", "gumbel_topk", floor=True)
def _(p: Problem) -> Call:
    return lambda: p.logits.topk(p.k, -1)


@peer(ARGPARTITION, "sample_without_replacement", library="numpy")
def _(p: Problem) -> Call:
    rng, n, w = np.random.default_rng(0), p.size.shape[-1], p.weights64
    return lambda: np.argpartition(rng.standard_exponential(n) / w, p.k)[: p.k]


@peer("the same in float32", "sample_without_replacement", library="numpy")
def _(p: Problem) -> Call:
    rng, n, w = np.random.default_rng(0), p.size.shape[-1], p.weights.numpy()
    return lambda: np.argpartition(rng.standard_exponential(n, dtype=np.float32) / w, p.k)[: p.k]


@peer("rng.choice(replace=False, p=)", "sample_without_replacement", library="numpy")
def _(p: Problem) -> Call:
    rng, n, probs = np.random.default_rng(0), p.size.shape[-1], p.probs64
    return lambda: rng.choice(n, p.k, replace=False, p=probs)


@peer("multinomial(w, k)", "sample_without_replacement")
def _(p: Problem) -> Call:
    return lambda: torch.multinomial(p.weights, p.k)


@peer("random.choice(replace=False, p=)", "sample_without_replacement", library="jax")
def _(p: Problem) -> Call:
    import jax

    return jitted(lambda key, probs: jax.random.choice(key, len(probs), (p.k,), replace=False, p=probs), p.jax_probs)


@peer("DataFrame.sample(weights=)", "sample_without_replacement", library="pandas")
def _(p: Problem) -> Call:
    import pandas as pd

    frame = pd.DataFrame({"w": p.weights64})
    return lambda: frame.sample(p.k, weights="w")


@peer("order by -ln(random()) / w limit k", "sample_without_replacement", library="duckdb")
def _(p: Problem) -> Call:
    import duckdb

    connection = duckdb.connect()
    connection.execute(f"set threads = {torch.get_num_threads()}")
    columns = {"id": np.arange(p.size.shape[-1]), "w": p.weights64}
    connection.register("columns", columns)
    connection.execute("create table population as select * from columns")
    query = f"select id from population order by -ln(random()) / w limit {p.k}"
    return lambda: connection.execute(query).fetchnumpy()


# ----------------------------------------------------------------------------------------------------------- relaxation


def forward(p: Problem, sample: Callable[[Tensor], Tensor]) -> Call:
    return lambda: sample(p.logits)


def forward_backward(p: Problem, sample: Callable[[Tensor], Tensor]) -> Call:
    """The sample and its gradient with respect to the logits."""

    def call() -> tuple[Tensor, Tensor]:
        y = sample(p.leaf)
        return y, torch.autograd.grad(y, p.leaf, p.upstream)[0]

    return call


HOW: dict[str, tuple[Callable[..., Call], bool]] = {
    "gumbel_softmax": (forward, False),
    "gumbel_softmax + backward": (forward_backward, False),
    "gumbel_softmax hard + backward": (forward_backward, True),
}


def _compiled() -> Callable[..., Tensor]:
    torch.compiler.reset()  # or sizes pile up until it gives up compiling
    return torch.compile(F.gumbel_softmax, dynamic=False)


def _softmax_peers(op: str) -> None:
    run, hard = HOW[op]

    @peer(F_GUMBEL_SOFTMAX, op)
    def _(p: Problem) -> Call:
        return run(p, lambda x: F.gumbel_softmax(x, p.tau, hard))

    @peer(f"{F_GUMBEL_SOFTMAX}, compiled", op)
    def _(p: Problem) -> Call:
        function = _compiled()
        return run(p, lambda x: function(x, p.tau, hard))

    if not hard:

        @peer("RelaxedOneHotCategorical.rsample()", op)
        def _(p: Problem) -> Call:
            tau = torch.tensor(p.tau, dtype=p.size.dtype)
            return run(p, lambda x: RelaxedOneHotCategorical(tau, logits=x).rsample())


for _op in HOW:
    _softmax_peers(_op)


# ----------------------------------------------------------------------------------------------------- posterior_gumbel


@peer(OUR_NOISE, "posterior_gumbel", library="argumbel")
def _(p: Problem) -> Call:
    return lambda: ag.gumbel(p.size.shape, dtype=p.size.dtype)


@peer("plain torch: x.logsumexp, our noise, logaddexp", "posterior_gumbel", "posterior_gumbel, float64")
def _(p: Problem) -> Call:
    winners = torch.distributions.Categorical(logits=p.logits).sample().unsqueeze(-1)

    def call() -> Tensor:
        g = ag.gumbel(p.size.shape, dtype=p.size.dtype)
        top = p.logits.logsumexp(-1, keepdim=True) + g.gather(-1, winners)
        return -torch.logaddexp(-(p.logits + g), -top).scatter(-1, winners, top)

    return call


peer(OUR_MAX, "posterior_gumbel", library="argumbel", floor=True)(_our_max)


@peer(OURS_IN_FLOAT32, "posterior_gumbel, float64", library="argumbel", floor=True)
def _(p: Problem) -> Call:
    logits = p.logits.float()
    winners = logits.argmax(-1)
    return lambda: ag.posterior_gumbel(logits, winners)
