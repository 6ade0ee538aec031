"""The next token as servers draw it, written as peers of the benchmarks: its law, and where a hash of 32 bits fails."""

from __future__ import annotations

import math

import pytest
import torch
from benchmarks import laws, tokens
from torch import Tensor

import argumbel as ag

STEP = 2.0**-32  # between the uniform numbers of a hash
LAST = 2**32 - 1


# --- the law of the peers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(tokens.TRUNCATED_PEERS))
def test_peers_under_limits_have_the_law(name: str) -> None:
    torch.manual_seed(1)
    tokens.check_few_tokens(tokens.TRUNCATED_PEERS[name])


def test_a_wrong_truncation_is_noticed() -> None:
    with pytest.raises(AssertionError):
        tokens.check_few_tokens(lambda x: ag.categorical(x, temperature=0.8, top_p=0.85))
    with pytest.raises(AssertionError):
        tokens.check_few_tokens(lambda x: ag.categorical(x, temperature=1, top_p=0.95))


def test_peers_with_seeds_have_the_law() -> None:
    def hashed(x: Tensor, generator: torch.Generator) -> Tensor:
        rows = torch.arange(len(x))
        return tokens.hashed_race(x, rows // 100, rows % 100)

    laws.check_few_items(torch.float32, hashed)
    laws.check_few_items(
        torch.float32, lambda x, g: tokens.generators_race(x, tokens.generators_of(torch.arange(len(x))))
    )


# --- a hash of 32 bits as the uniform number -----------------------------------------------------------------------


def rows_of(pairs: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    seeds, positions = zip(*pairs, strict=True)
    return torch.tensor(seeds), torch.tensor(positions)


def test_the_hash_is_theirs() -> None:
    """Of this seed, position and token their users reported the largest hash, whose noise was inf (SGLang 25106)."""
    hashes = tokens.hashed(torch.tensor([7847]), torch.tensor([12345]), torch.arange(1200, 1300))
    assert int(hashes[0, 8]) == LAST
    noise = tokens.hashed_noise(hashes)
    assert noise.argmax() == 8
    assert float(noise.max()) == pytest.approx(32 * math.log(2), rel=1e-12)


def test_no_two_tokens_of_a_row_tie() -> None:
    """Given seed and position the hash is a bijection of the token, so equal noise does not occur."""
    hashes = tokens.hashed(torch.tensor([5, 2**40]), torch.tensor([6, 7]), torch.arange(128_256))
    for row in hashes:
        assert len(row.unique()) == 128_256


def test_noise_ends_at_22() -> None:
    """No noise is larger than 32 log 2, and two hashes give this number."""
    noise = tokens.hashed_noise(torch.tensor([0, 1, LAST - 2, LAST - 1, LAST]))
    assert bool(noise.isfinite().all())
    assert float(noise[-1]) == pytest.approx(22.1807, abs=1e-4)
    assert float(noise[-1] - noise[-2]) == pytest.approx(0, abs=1e-8)
    assert float(noise[-2] - noise[-3]) == pytest.approx(math.log(2), abs=1e-8)


def hashed_rate(p: float) -> float:
    """How often a token of probability p beats one with the rest: arrivals at 1, 1, 2, 3, ... steps, a step's chance
    each, against an exponential time."""
    a = STEP * (1 - p) / p
    return STEP * (math.exp(-a) + 1 / math.expm1(a))


@pytest.mark.parametrize(
    ("times", "rate"),  # the probability in steps; its rate over the probability
    [(64, 1.0078), (8, 1.057), (2, 1.074), (1, 0.950), (1 / 4, 0.146), (1 / 16, 3.6e-6)],
)
def test_rare_tokens_below_a_step_are_lost(times: float, rate: float) -> None:
    """The closed form, and the noise at every hash that has a chance, from their formula."""
    p = times * STEP
    assert hashed_rate(p) / p == pytest.approx(rate, rel=2e-2)
    hashes = LAST - torch.arange(min(1 << 20, int(64 * times) + 64))
    arrivals = (-tokens.hashed_noise(hashes)).exp()
    summed = float((STEP * torch.exp(-arrivals * (1 - p) / p)).sum())
    assert summed == pytest.approx(hashed_rate(p), rel=1e-4)


# --- a row of noise has 32 bits ------------------------------------------------------------------------------------


def repeated(hashes: Tensor) -> int:
    return len(hashes) - len(hashes.unique())


def test_requests_share_rows_of_noise() -> None:
    """A row of noise depends on seed and position through 32 bits. Among a million tokens of 1,000 requests, 116 are
    expected to be drawn with all the noise of another one."""
    n = 1_000_000
    rows = torch.arange(n)
    seeds, positions = rows // 1000 + 500, rows % 1000
    first = tokens.hashed(seeds, positions, torch.zeros(1, dtype=torch.int64))[:, 0]
    expected = n**2 / 2**33
    assert abs(repeated(first) - expected) < 5 * math.sqrt(expected)
    ordered, place = first.sort()
    at = int((ordered.diff() == 0).nonzero()[0])
    pair = place[at : at + 2]
    assert pair[0] != pair[1]
    same = tokens.hashed(seeds[pair], positions[pair], torch.arange(128_256))
    assert torch.equal(same[0], same[1])
    # Ours: 64 bits of seed, 64 bits of row.
    noise = ag.KeyedNoise(seeds, rows=positions).uniform((n, 2), dtype=torch.float64)
    assert repeated(noise[:, 0] + 2 * noise[:, 1]) == 0
