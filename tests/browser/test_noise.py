"""docs/play/noise.js draws what argumbel draws, to the bit."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from playwright.sync_api import Page

import argumbel as ag
from argumbel.kernels import noise

LAWS = ("gumbel", "exponential", "uniform", "logistic", "odds")
COUNT = 100_000

# Arrays of 64 bits to the page and back, as text.
DRAW = """([laws, keys]) => {
    const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
    const [seeds, rows, items] = keys.map((text) => new BigInt64Array(bytes(text)));
    return laws.map(([name, law]) => {
        const out = Float64Array.from(seeds, (seed, i) => argumbel[name](seed, rows[i], items[i], law));
        let text = "";
        for (const byte of new Uint8Array(out.buffer)) text += String.fromCharCode(byte);
        return btoa(text);
    });
}"""


def _keys() -> list[np.ndarray]:
    """Small, large and negative seeds, rows and items, and keys whose words lie near an end of (0, 1)."""
    generator = random.Random(0)
    kinds = (
        lambda: generator.randrange(100),
        lambda: -generator.randrange(1000),
        lambda: generator.getrandbits(40),
        lambda: generator.getrandbits(64) - 2**63,
    )
    keys = np.array([[generator.choice(kinds)() for _ in range(3)] for _ in range(COUNT)]).T.copy()
    # Of the first million items of one row those that take 32 more bits, about one in 4096.
    words = noise.words(torch.tensor(5), torch.tensor(9), torch.arange(1_000_000), 0)
    near = torch.minimum(words, 0xFFFFFFFF - words) < noise.REFINE_BELOW
    items = near.nonzero().squeeze(-1).numpy()
    assert len(items) > 100
    keys[:, : len(items)] = np.stack([np.full_like(items, 5), np.full_like(items, 9), items])
    return list(keys)


@pytest.fixture(scope="module")
def keys() -> list[np.ndarray]:
    return _keys()


@pytest.fixture(scope="module")
def words(keys: list[np.ndarray]) -> list[torch.Tensor]:
    seeds, rows, items = map(torch.from_numpy, keys)
    return [noise.words(seeds, rows, items.unsqueeze(-1), stream).squeeze(-1) for stream in (0, 1)]


def test_noise_is_that_of_python_to_the_bit(
    open_page: Callable[..., Page], keys: list[np.ndarray], words: list[torch.Tensor]
) -> None:
    page = open_page("play/race.html")
    texts = [base64.b64encode(key.tobytes()).decode() for key in keys]
    dtypes = {"noise": torch.float32, "noise64": torch.float64}
    laws = [(name, law) for name in dtypes for law in LAWS]
    for (name, law), text in zip(laws, page.evaluate(DRAW, [laws, texts]), strict=True):
        drawn = np.frombuffer(base64.b64decode(text))
        expected = noise.TRANSFORMS[law](*words, dtypes[name]).double().numpy()
        assert (drawn == expected).all(), (name, law)


def test_the_compiled_kernels_agree_with_what_the_page_is_compared_with(
    keys: list[np.ndarray], words: list[torch.Tensor]
) -> None:
    seeds, rows, items = map(torch.from_numpy, keys)
    drawn = ag.KeyedNoise(seeds[:1000], rows=rows[:1000], items=items[:1000, None]).gumbel((1000, 1))
    assert torch.equal(drawn.squeeze(-1), noise.TRANSFORMS["gumbel"](*words, torch.float32)[:1000])


def test_rows_of_noise_and_ids_as_numbers(open_page: Callable[..., Page]) -> None:
    page = open_page("play/race.html")
    for seed, row, n in [(7, 0, 1), (7, 3, 6), (-1, 2**40, 1001), (2**53 - 1, 5, 4)]:
        drawn = page.evaluate("([s, r, n]) => Array.from(argumbel.noises(s, r, n))", [seed, row, n])
        assert drawn == ag.KeyedNoise(seed, rows=[row]).gumbel((1, n)).double().squeeze(0).tolist()
    with pytest.raises(Exception, match="seed must be a whole number"):
        page.evaluate("argumbel.noise(2 ** 60, 0, 0)")
    with pytest.raises(Exception, match="law must be one of"):
        page.evaluate("argumbel.noise(1, 0, 0, 'normal')")


def test_winners_of_many_rows(open_page: Callable[..., Page]) -> None:
    page = open_page("play/race.html")
    logits = [1.2, 0.4, -0.3, 2.0, 0.0]
    counts = page.evaluate("(logits) => Array.from(argumbel.countFirst(logits, 1, 11, 5, 20_000))", logits)
    noise = ag.KeyedNoise(11, rows=range(5, 20_005))
    winners = ag.gumbel_max(torch.tensor(logits).expand(20_000, 5), noise=noise).indices
    assert counts == torch.bincount(winners).tolist()
