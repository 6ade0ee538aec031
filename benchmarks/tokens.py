"""The next token of every request of a batch: our calls, their checks, and what servers and transformers compute.

Logits are four times standard normal numbers, peaked as a language model's are; or standard normal, called flat."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tests import statistics
from torch import Tensor

import argumbel as ag
from argumbel.sequences import next_tokens, truncate

from . import laws
from .ops import op
from .peers import Call, peer
from .problem import Problem

TEMPERATURE, TOP_P = 0.8, 0.95
RULES = {"temperature": TEMPERATURE, "top_p": TOP_P}
PEAKED = "categorical, temperature = .8, top_p = .95"
FLAT = f"{PEAKED}, flat logits"
KEYED, KEYED_LIMITS = "next_tokens", "next_tokens, temperature = .8, top_p = .95"

# Names that targets refer to.
WARPERS = "transformers' warpers, softmax, multinomial"
SORTED = "vLLM: sort, cumsum, scatter, exponential race"
PLAIN = "argumbel.categorical without limits"
HASHED = "SGLang: hash of 32 bits, float64 noise"
HASHED_COMPILED = f"{HASHED}, compiled"
GENERATORS = "vLLM: a generator for each request, exponential race"


def peaked(p: Problem) -> Tensor:
    if not hasattr(p, "peaked"):
        p.peaked = 4 * p.logits
    return p.peaked  # type: ignore[no-any-return]


def flat(p: Problem) -> Tensor:
    return p.logits


# ------------------------------------------------------------------------------------------------------ truncated draws


def check_few_tokens(draw: Callable[[Tensor], Tensor]) -> None:
    """Counts of seven tokens, of which the limits leave four, in many short rows."""
    row = torch.tensor([0.0, -2.0, -torch.inf, 1.0, 0.5, -3.0, 0.25])
    law = (row.double() / TEMPERATURE).softmax(-1)
    law[[1, 5]] = 0  # together below 1 - TOP_P, and each of the others is above it
    statistics.check_draws(draw(row.expand(20_000, 7).contiguous()).numpy(), (law / law.sum()).numpy())


def _check_truncated(logits: Tensor) -> None:
    """What is left has the mass asked for, none of it could be spared, and draws have its law."""
    left = truncate(logits, **RULES) > -torch.inf
    exact = logits.double() / TEMPERATURE
    probs = exact.softmax(-1)
    mass, least = (probs * left).sum(-1), probs.masked_fill(~left, torch.inf).amin(-1)
    assert bool((least >= probs.masked_fill(left, 0).amax(-1)).all()), "a token was left, and a likelier one was not"
    assert bool((mass >= TOP_P - 1e-6).all()), "too few tokens are left"
    assert bool((mass - least < TOP_P + 1e-6).all()), "too many tokens are left"
    check_few_tokens(lambda x: ag.categorical(x, **RULES, generator=torch.Generator().manual_seed(2)))
    generator = torch.Generator().manual_seed(6)
    draws = laws.repeat(lambda: ag.categorical(logits, **RULES, generator=generator), 5000)
    laws.check_categorical(exact.masked_fill(~left, -torch.inf), draws)


def warpers(logits: Tensor) -> Tensor:
    """TemperatureLogitsWarper and TopPLogitsWarper of transformers, and the draw of its ``generate``."""
    scores = logits / TEMPERATURE
    rising, order = scores.sort(descending=False)
    removed = rising.softmax(-1).cumsum(-1) <= 1 - TOP_P
    removed[..., -1:] = False
    scores = scores.masked_fill(removed.scatter(-1, order, removed), -torch.inf)
    return torch.multinomial(scores.softmax(-1), 1).squeeze(-1)


def sorted_race(logits: Tensor) -> Tensor:
    """vLLM's way without kernels of its own: the logits in their order are cut and put back, and race."""
    rising, order = (logits / TEMPERATURE).sort(dim=-1, descending=False)
    removed = rising.softmax(-1).cumsum(-1) <= 1 - TOP_P
    removed[..., -1] = False
    rising.masked_fill_(removed, -torch.inf)
    probs = rising.scatter(-1, order, rising).softmax(-1)
    return probs.div_(torch.empty_like(probs).exponential_()).argmax(-1)


TRUNCATED_PEERS: dict[str, Callable[[Tensor], Tensor]] = {WARPERS: warpers, SORTED: sorted_race}


def _truncated(name: str, logits_of: Callable[[Problem], Tensor]) -> None:
    @op(name, lambda p: _check_truncated(logits_of(p)))
    def _(p: Problem) -> Call:
        logits = logits_of(p)
        return lambda: ag.categorical(logits, **RULES)

    for peer_name, draw in TRUNCATED_PEERS.items():

        @peer(peer_name, name)
        def _(p: Problem, draw: Callable[[Tensor], Tensor] = draw) -> Call:
            logits = logits_of(p)
            return lambda: draw(logits)

    @peer(PLAIN, name, library="argumbel")
    def _(p: Problem) -> Call:
        logits = logits_of(p)
        return lambda: ag.categorical(logits)

    @peer("torch.amax", name, floor=True)
    def _(p: Problem) -> Call:
        logits = logits_of(p)
        return lambda: logits.amax(-1)


_truncated(PEAKED, peaked)
_truncated(FLAT, flat)


# ---------------------------------------------------------------------------------------------------- a request's token


def requests(p: Problem) -> tuple[Tensor, Tensor]:
    """A seed for each row, and the position of its token."""
    rows = p.size.shape[0]
    return torch.randint(2**62, (rows,), generator=p.generator(1)), torch.randint(
        9000, (rows,), generator=p.generator(2)
    )


def _check_keyed(p: Problem, rules: dict[str, float]) -> None:
    logits, (seeds, positions) = peaked(p), requests(p)
    keys = truncate(logits, **rules) + ag.KeyedNoise(seeds, positions).gumbel(logits.shape, dtype=torch.float32)
    tokens = next_tokens(logits, seeds, positions, **rules)
    assert torch.equal(tokens, keys.argmax(-1)), "not the tokens of the plain expression"
    assert next_tokens(logits[1], seeds[1], positions[1], **rules) == tokens[1], "not the token of a request alone"
    if rules:
        check_few_tokens(lambda x: next_tokens(x, torch.arange(len(x)) % 100, torch.arange(len(x)) // 100, **rules))
    else:
        laws.check_few_items(p.size.dtype, lambda x, g: next_tokens(x, torch.arange(len(x)), 5))


def hashed(seeds: Tensor, positions: Tensor, columns: Tensor) -> Tensor:
    """MurmurHash3 of 16 bytes, (seed, position, column): 32 bits, held in int64; ``(rows, columns)``."""

    def multiplied(x: Tensor, by: int) -> Tensor:
        return x * by & 0xFFFFFFFF

    def rotated(x: Tensor, by: int) -> Tensor:
        return (x << by | x >> (32 - by)) & 0xFFFFFFFF

    h = torch.zeros((), dtype=torch.int64)
    row = (seeds & 0xFFFFFFFF, seeds >> 32 & 0xFFFFFFFF, positions & 0xFFFFFFFF)
    for word in (*(part.unsqueeze(-1) for part in row), columns):
        mixed = multiplied(rotated(multiplied(word, 0xCC9E2D51), 15), 0x1B873593)
        h = rotated(h ^ mixed, 13) * 5 + 0xE6546B64 & 0xFFFFFFFF
    h = h ^ 16
    h = multiplied(h ^ h >> 16, 0x85EBCA6B)
    h = multiplied(h ^ h >> 13, 0xC2B2AE35)
    return h ^ h >> 16


def hashed_noise(hashes: Tensor) -> Tensor:
    """SGLang's noise: Gumbel, in float64, of uniform numbers hash / (2^32 - 1). Since August 2026 -log(u) is at least
    2^-32; before, the last of them was 1, and its noise inf."""
    log_u = (hashes.double() / (2**32 - 1)).log()
    return -(-log_u.clamp(min=torch.finfo(torch.float64).min, max=-(2.0**-32))).log()


def hashed_race(logits: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
    columns = torch.arange(logits.shape[-1])
    noise = hashed_noise(hashed(seeds, positions, columns))
    return noise.add_(logits.log_softmax(-1).double()).argmax(-1)


def generators_race(logits: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Each request's generator fills the row of the request, so a token depends on how many were drawn before it."""
    probs = logits.softmax(-1)
    arrivals = torch.empty_like(probs)
    for row, generator in zip(arrivals, generators, strict=True):
        row.exponential_(generator=generator)
    return probs.div_(arrivals).argmax(-1)


def generators_of(seeds: Tensor) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]


@op(KEYED, lambda p: _check_keyed(p, {}))
def _(p: Problem) -> Call:
    logits, (seeds, positions) = peaked(p), requests(p)
    return lambda: next_tokens(logits, seeds, positions)


@op(KEYED_LIMITS, lambda p: _check_keyed(p, RULES))
def _(p: Problem) -> Call:
    logits, (seeds, positions) = peaked(p), requests(p)
    return lambda: next_tokens(logits, seeds, positions, **RULES)


@peer(HASHED, KEYED)
def _(p: Problem) -> Call:
    logits, (seeds, positions) = peaked(p), requests(p)
    return lambda: hashed_race(logits, seeds, positions)


@peer(HASHED_COMPILED, KEYED)
def _(p: Problem) -> Call:
    """As SGLang runs it on a GPU."""
    logits, (seeds, positions) = peaked(p), requests(p)
    torch.compiler.reset()
    compiled = torch.compile(hashed_race, dynamic=False)
    return lambda: compiled(logits, seeds, positions)


@peer(GENERATORS, KEYED)
def _(p: Problem) -> Call:
    logits, generators = peaked(p), generators_of(requests(p)[0])
    return lambda: generators_race(logits, generators)


@peer(f"{HASHED}, after a sort and a cumsum", KEYED_LIMITS)
def _(p: Problem) -> Call:
    """SGLang's way under limits: the probabilities in falling order race, so the noise goes by rank, not by token."""
    logits, (seeds, positions) = peaked(p), requests(p)

    def call() -> Tensor:
        falling, order = (logits / TEMPERATURE).softmax(-1).sort(dim=-1, descending=True)
        falling[falling.cumsum(-1) - falling > TOP_P] = 0
        columns = torch.arange(logits.shape[-1])
        rank = (hashed_noise(hashed(seeds, positions, columns)) + falling.double().log()).argmax(-1, keepdim=True)
        return order.gather(-1, rank).squeeze(-1)

    return call


@peer("torch.amax", KEYED, KEYED_LIMITS, floor=True)
def _(p: Problem) -> Call:
    logits = peaked(p)
    return lambda: logits.amax(-1)
