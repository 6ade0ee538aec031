"""Masked diffusion: the sampling step, its orders and its law, and what float32 loses where others use it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import argumbel as ag
from argumbel.sequences import unmask
from tests.statistics import check_counts, check_draws, check_frequency, check_independent

DELTA = 2.0**-24
MASK = 7


def problem(batch: int = 3, positions: int = 5, n: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, positions, n, generator=generator)
    tokens = torch.full((batch, positions), MASK)
    tokens[:, 0] = 2
    return logits, tokens


def log_probs(logits: Tensor) -> Tensor:
    x = logits.double().clone()
    x[..., MASK] = -torch.inf
    return x.log_softmax(-1)


# --- the step, in plain lines --------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0, 0.5, 1, 1.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_step_in_plain_lines(temperature: float, dtype: torch.dtype) -> None:
    logits, tokens = problem()
    logits = logits.to(dtype)
    step = unmask(logits, tokens, 2, mask_id=MASK, temperature=temperature, noise=ag.KeyedNoise(3))
    work = logits.double() if dtype == torch.float64 else logits.float()
    work[..., MASK] = -torch.inf
    g = ag.KeyedNoise(3).gumbel(work.shape, dtype=work.dtype)
    drawn = (work if temperature == 0 else work / temperature + g).argmax(-1)
    confidence = log_probs(logits).gather(-1, drawn.unsqueeze(-1)).squeeze(-1)
    confidence[:, 0] = -torch.inf
    chosen = torch.zeros_like(tokens, dtype=torch.bool).scatter(-1, confidence.topk(2, -1).indices, True)
    assert torch.equal(step.chosen, chosen)
    assert torch.equal(step.tokens, torch.where(chosen, drawn, tokens))
    assert step.confidences.dtype == work.dtype
    torch.testing.assert_close(step.confidences.double(), confidence, atol=1e-5, rtol=1e-5)


def test_margin_and_entropy() -> None:
    logits, tokens = problem()
    p = log_probs(logits).exp()
    best = p.sort(-1, descending=True).values
    entropy = torch.special.entr(p).sum(-1)
    for order, measure in (("margin", best[..., 0] - best[..., 1]), ("entropy", -entropy)):
        step = unmask(logits, tokens, 2, mask_id=MASK, order=order, noise=ag.KeyedNoise(3))
        measure[:, 0] = -torch.inf
        torch.testing.assert_close(step.confidences.double(), measure, atol=1e-5, rtol=1e-5)
        chosen = torch.zeros_like(step.chosen).scatter(-1, measure.topk(2, -1).indices, True)
        assert torch.equal(step.chosen, chosen)


def test_equal_confidences_take_the_first_positions() -> None:
    logits = torch.zeros(2, 200, 4)
    logits[..., 1] = 60  # so sure that every confidence rounds to 0
    tokens = torch.full((2, 200), 9)
    step = unmask(logits, tokens, torch.tensor([3, 150]), mask_id=9)
    assert step.chosen[0].nonzero().flatten().tolist() == [0, 1, 2]
    assert step.chosen[1].nonzero().flatten().tolist() == list(range(150))
    assert bool((step.tokens[step.chosen] == 1).all())


@pytest.mark.parametrize("order", ["confidence", "margin", "entropy", "random"])
def test_a_position_depends_on_its_key_alone(order: str) -> None:
    """The batch, padding, an expanded or a moved tensor, and a tensor of noise make no difference."""
    logits, tokens = problem(6, 9)
    rows = torch.arange(54).reshape(6, 9)
    arguments = {"mask_id": MASK, "order": order, "temperature": 0.8}
    whole = unmask(logits, tokens, 3, noise=ag.KeyedNoise(1, rows), **arguments)
    one = unmask(logits[4], tokens[4], 3, noise=ag.KeyedNoise(1, rows[4]), **arguments)
    for a, b in zip(whole, one, strict=True):
        assert torch.equal(a[4], b)
    padded = unmask(
        torch.cat([logits.new_zeros(6, 4, 8), logits], 1),
        torch.cat([torch.zeros(6, 4, dtype=torch.int64), tokens], 1),
        3,
        noise=ag.KeyedNoise(1, torch.cat([torch.full((6, 4), -1), rows], 1)),
        **arguments,
    )
    assert torch.equal(padded.tokens[:, 4:], whole.tokens)
    moved = unmask(
        logits.movedim(1, 0).contiguous().movedim(0, 1), tokens, 3, noise=ag.KeyedNoise(1, rows), **arguments
    )
    assert torch.equal(moved.tokens, whole.tokens)
    expanded = unmask(logits[:1].expand(6, 9, 8), tokens, 3, noise=ag.KeyedNoise(1, rows), **arguments)
    copied = unmask(logits[:1].repeat(6, 1, 1), tokens, 3, noise=ag.KeyedNoise(1, rows), **arguments)
    assert torch.equal(expanded.tokens, copied.tokens)
    if order != "random":
        g = ag.KeyedNoise(1, rows).gumbel(logits.shape)
        assert torch.equal(unmask(logits, tokens, 3, noise=g, **arguments).tokens, whole.tokens)


def test_a_seed_for_every_sequence() -> None:
    logits, tokens = problem(3, 9)
    seeds, rows = torch.tensor([5, -6, 7]).unsqueeze(1).expand(3, 9), torch.arange(9).expand(3, 9)
    for order in ("confidence", "random"):
        arguments = {"mask_id": MASK, "order": order, "order_temperature": 0.5}
        whole = unmask(logits, tokens, 3, noise=ag.KeyedNoise(seeds, rows), **arguments)
        for i, seed in enumerate((5, -6, 7)):
            one = unmask(logits[i], tokens[i], 3, noise=ag.KeyedNoise(seed, rows[i]), **arguments)
            for a, b in zip(whole, one, strict=True):
                assert torch.equal(a[i], b)


def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, tokens = problem(6, 9)
    mask = torch.rand(9, 8, generator=torch.Generator().manual_seed(0)) < 0.7
    mask[:, 0] = True
    temperature = torch.linspace(0, 2, 54).reshape(6, 9)
    for order in ("confidence", "entropy"):
        arguments = {"mask_id": MASK, "temperature": temperature, "mask": mask, "order": order}
        whole = unmask(logits, tokens, 3, noise=ag.KeyedNoise(1), **arguments)
        with monkeypatch.context() as patch:
            patch.setattr("argumbel.sequences._diffusion.CHUNK", 24)
            parts = unmask(logits, tokens, 3, noise=ag.KeyedNoise(1), **arguments)
        for a, b in zip(whole, parts, strict=True):
            assert torch.equal(a, b)
        assert bool(
            mask.expand(logits.shape)
            .gather(-1, whole.tokens.clamp(max=7).unsqueeze(-1))
            .squeeze(-1)[whole.chosen]
            .all()
        )


def test_few_steps_and_many_steps_share_their_luck() -> None:
    """Under a random order the noise of a position is used once, so one key serves every step."""
    logits, start = problem(4, 12)
    texts = []
    for k in (1, 3, 12):
        tokens = start
        while bool((tokens == MASK).any()):
            tokens = unmask(logits, tokens, k, mask_id=MASK, order="random", noise=ag.KeyedNoise(5)).tokens
        texts.append(tokens)
    assert torch.equal(texts[0], texts[1])
    assert torch.equal(texts[0], texts[2])


def test_what_a_step_changes() -> None:
    logits, tokens = problem(2, 6)
    logits[0, 1] = torch.nan  # masked, but not in the block
    block = torch.tensor([False, False, True, True, True, False])
    step = unmask(logits, tokens, torch.tensor([0, 9]), mask_id=MASK, within=block)
    assert step.chosen.tolist() == [[False] * 6, [False, False, True, True, True, False]]
    assert torch.equal(step.tokens[~step.chosen], tokens[~step.chosen])
    assert bool((step.confidences[:, [0, 1, 5]] == -torch.inf).all())
    assert step.tokens.dtype == torch.int64
    assert unmask(logits, tokens.int(), 1, mask_id=MASK, within=block).tokens.dtype == torch.int32
    nothing = unmask(logits, torch.zeros_like(tokens), 3, mask_id=MASK)
    assert not nothing.chosen.any()
    beyond = unmask(torch.zeros(300, 3), torch.full((300,), -5), 300, mask_id=-5)
    assert set(beyond.tokens.tolist()) == {0, 1, 2}


def test_the_mask_is_never_drawn() -> None:
    logits = torch.zeros(500, 4)
    logits[:, 2] = 30
    tokens = torch.full((500,), 2)
    step = unmask(logits, tokens, 500, mask_id=2)
    assert set(step.tokens.tolist()) == {0, 1, 3}


# --- laws ----------------------------------------------------------------------------------------------------------


SCATTERED = pytest.mark.parametrize("scattered", [False, True], ids=["in a stretch", "scattered"])


def open_positions(m: int, scattered: bool) -> tuple[Tensor, Tensor]:
    """Tokens with m masked positions, that follow each other or do not, and where these are."""
    tokens = torch.zeros(2 * m, dtype=torch.int64)
    tokens[(slice(1, None, 2) if scattered else slice(m // 2, m // 2 + m))] = MASK
    return tokens, tokens == MASK


@SCATTERED
@pytest.mark.parametrize("logit", [-torch.inf, 0.0, 1.5, 6.0, 60.0])  # of the mask
@pytest.mark.parametrize(("temperature", "dtype"), [(1, torch.float32), (0.7, torch.bfloat16), (1.3, torch.float64)])
def test_the_law_of_tokens(temperature: float, dtype: torch.dtype, logit: float, scattered: bool) -> None:
    logits = torch.randn(8, generator=torch.Generator().manual_seed(2)).to(dtype)
    logits[MASK] = logit
    m = 20_000
    tokens, where = open_positions(m, scattered)
    for order in ("confidence", "random"):
        step = unmask(
            logits.expand(2 * m, 8), tokens, m, mask_id=MASK, temperature=temperature, order=order,
            generator=torch.Generator().manual_seed(4),
        )  # fmt: skip
        assert torch.equal(step.chosen, where)
        x = logits.double() / temperature
        x[MASK] = -torch.inf
        drawn = step.tokens[where]
        check_draws(drawn, x.softmax(-1))
        check_independent(drawn[::2], drawn[1::2], x.softmax(-1), x.softmax(-1))


@SCATTERED
def test_the_law_of_tokens_of_long_rows(scattered: bool) -> None:
    """Rows of several blocks, with a temperature for each row, the argmax too."""
    n, m = 3000, 2000
    logits = torch.full((n,), -8.0)
    logits[[5, 1100, 2900]] = torch.tensor([1.0, 0.5, 0.0])
    logits[MASK] = 1.2
    logits[2999] = 0.9
    tokens, where = open_positions(m, scattered)
    temperature = torch.where(torch.arange(2 * m) % 4 < 2, 0.9, 0.0)
    step = unmask(
        logits.expand(2 * m, n), tokens, mask_id=MASK, temperature=temperature, order="random", rate=1,
        generator=torch.Generator().manual_seed(4),
    )  # fmt: skip
    assert bool((step.tokens[where & (temperature == 0)] == 5).all())
    x = logits.double() / 0.9
    x[MASK] = -torch.inf
    p = x.softmax(-1)
    named = [5, 1100, 2900, 2999]
    drawn = step.tokens[where & (temperature > 0)]
    assert not bool((drawn == MASK).any())
    counts = [int((drawn == i).sum()) for i in named]
    check_counts([*counts, len(drawn) - sum(counts)], [*p[named].tolist(), 1 - float(p[named].sum())])


@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.parametrize("logit", [-3.0, 2.0, 9.0])  # of the mask
def test_order_and_tokens_are_independent(logit: float, scattered: bool) -> None:
    rows = 40_000
    logits = torch.tensor([0.0, 0.7, -0.4, logit])
    tokens = torch.full((rows, 5), 3)
    tokens[:, 1::2] = 0 if scattered else 3
    places = (tokens[0] == 3).nonzero().flatten()
    p = logits[:3].double().softmax(-1)
    for order, order_temperature in (("random", 0), ("margin", 0.5)):
        step = unmask(
            logits.expand(rows, 5, 4), tokens, 1, mask_id=3, order=order, order_temperature=order_temperature,
            generator=torch.Generator().manual_seed(6),
        )  # fmt: skip
        place = step.chosen.int().argmax(-1)
        drawn = step.tokens.gather(-1, place.unsqueeze(-1)).squeeze(-1)
        place = torch.searchsorted(places, place)
        check_independent(place, drawn, torch.full((len(places),), 1 / len(places)), p)
    everything = unmask(
        logits.expand(rows, 4), torch.full((rows,), 3), mask_id=3, rate=0.3, order="random",
        generator=torch.Generator().manual_seed(6),
    )  # fmt: skip
    check_draws(everything.tokens[everything.chosen], p)


def test_chunks_draw_different_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk numbers its rows from 0, so each has a seed of its own; and so have second draws of rows."""
    n, m = 64, 20_000
    monkeypatch.setattr("argumbel.sequences._diffusion.CHUNK", 2 * n)
    uniform = torch.full((n,), 1 / (n - 1))
    uniform[MASK] = 0
    for scattered in (False, True):
        logits = torch.zeros(n)
        logits[MASK] = 8
        tokens, where = open_positions(m, scattered)
        step = unmask(
            logits.expand(2 * m, n), tokens, m, mask_id=MASK, order="random",
            generator=torch.Generator().manual_seed(1),
        )  # fmt: skip
        drawn = step.tokens[where]
        check_draws(drawn, uniform)
        for distance in (1, 2):  # in the same chunk, and in the next
            a, b = drawn[: m // 4 * 4].reshape(-1, 4)[:, [0, distance]].unbind(-1)
            check_counts([int((a == b).sum()), int((a != b).sum())], [1 / (n - 1), 1 - 1 / (n - 1)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [1, 0.6])
def test_confidences_beside_any_mask(dtype: torch.dtype, temperature: float) -> None:
    """Also where nearly all of the sum is the mask's, or half of it."""
    row = torch.randn(2000, generator=torch.Generator().manual_seed(7)).to(dtype)
    heights = torch.tensor([-torch.inf, -5, 0, 5, 8.0, 8.1, 8.2, 8.3, 9, 12, 20, 40, 300]).repeat_interleave(4)
    logits = row.repeat(len(heights), 1)
    logits[:, MASK] = heights.to(dtype)
    tokens = torch.full((len(heights),), MASK)
    exact = log_probs(logits)
    for noise in (None, ag.KeyedNoise(5)):
        step = unmask(
            logits, tokens, len(heights), mask_id=MASK, temperature=temperature, noise=noise,
            generator=None if noise else torch.Generator().manual_seed(3),
        )  # fmt: skip
        want = exact.gather(-1, step.tokens.unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(step.confidences.double(), want, atol=2e-6, rtol=0)


def test_equal_rows_have_equal_confidences() -> None:
    """Whether the mask was drawn first or not: the first positions are chosen, as among all equals."""
    row = torch.randn(2000, generator=torch.Generator().manual_seed(7))
    row[0], row[MASK] = 16, 15.5
    step = unmask(row.expand(500, 2000), torch.full((500,), MASK), 500, mask_id=MASK)
    assert int((step.tokens == 0).sum()) > 400
    assert len(step.confidences[step.tokens == 0].unique()) == 1


def test_the_law_of_a_second_draw() -> None:
    """One position a call, so that both draws are of the first row: they do not share random numbers."""
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0, math.log(4)]])
    generator = torch.Generator().manual_seed(12)
    tokens = torch.tensor([4])
    drawn = [int(unmask(logits, tokens, 1, mask_id=4, order="random", generator=generator).tokens) for _ in range(4000)]
    check_draws(drawn, np.full(4, 0.25))


@pytest.mark.parametrize("logit", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("noise", [None, ag.KeyedNoise(0)])
def test_the_logit_of_the_mask_may_be_anything(noise: ag.KeyedNoise | None, logit: float) -> None:
    logits, tokens = problem()
    logits[..., MASK] = logit
    tokens[:] = MASK
    for order in ("confidence", "entropy", "random"):
        step = unmask(logits, tokens, 9, mask_id=MASK, order=order, noise=noise)
        assert bool(((step.tokens >= 0) & (step.tokens < MASK)).all())
        assert not bool(step.confidences.isnan().any())


def test_one_seed_is_drawn() -> None:
    """What is drawn from the generator does not depend on what the seed draws."""
    logits, tokens = problem(4, 40)
    logits[..., MASK] = 3
    for order in ("confidence", "random"):
        ours, other = torch.Generator().manual_seed(9), torch.Generator().manual_seed(9)
        steps = [unmask(logits, tokens, 7, mask_id=MASK, order=order, generator=g) for g in (ours, other)]
        for a, b in zip(*steps, strict=True):
            assert torch.equal(a, b)
        once = torch.Generator().manual_seed(9)
        ag.categorical(logits, generator=once)
        assert torch.equal(ours.get_state(), once.get_state())


def test_the_law_of_the_order() -> None:
    """The first k of a race with weights exp(confidence / order_temperature): Plackett and Luce's law of sets."""
    x = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.5, 0.0], [0.0, 0.0]])
    rows, temperature = 60_000, 0.3
    margin = (x.double().softmax(-1)[:, 0] - x.double().softmax(-1)[:, 1]) / temperature
    for order, score in (("margin", margin), ("random", torch.zeros(4))):
        step = unmask(
            x.expand(rows, 4, 2), torch.full((rows, 4), 2), 2, mask_id=2, order=order, order_temperature=temperature,
            generator=torch.Generator().manual_seed(4),
        )  # fmt: skip
        pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
        seen = [int((step.chosen[:, i] & step.chosen[:, j]).sum()) for i, j in pairs]
        probs = [ag.topk_log_prob(score, torch.tensor(pair), ordered=False).exp().item() for pair in pairs]
        check_counts(seen, probs)


def test_the_law_of_a_rate() -> None:
    """Each position on its own; the smallest rates too."""
    rate = torch.tensor([0.0, 1e-4, 0.25, 1.0])
    rows = 200_000
    step = unmask(
        torch.zeros(rows, 4, 3), torch.full((rows, 4), 9), mask_id=9, rate=rate, order="random",
        generator=torch.Generator().manual_seed(8),
    )  # fmt: skip
    counts = step.chosen.sum(0).tolist()
    assert (counts[0], counts[3]) == (0, rows)
    check_frequency(counts[1], rows, 1e-4)
    check_frequency(counts[2], rows, 0.25)
    check_draws(step.tokens[step.chosen], np.full(3, 1 / 3))


def test_rare_tokens_of_ten_million_positions_by_a_rate() -> None:
    """MDLM's step of a fine grid of times: 100 tokens at 3e-8, the rest of the mass stays masked. 30 are expected; the
    float32 formula gives 9.5."""
    rows = 10_000_000
    step = unmask(
        torch.zeros(100).expand(rows, 100), torch.full((rows,), 100), mask_id=100, rate=100 * 3e-8, order="random",
        generator=torch.Generator().manual_seed(20),
    )  # fmt: skip
    assert abs(int(step.chosen.sum()) - 30) < 5 * math.sqrt(30)
    assert len(set(step.tokens[step.chosen].tolist())) > 5


def test_rare_tokens_of_ten_million_positions_by_the_race() -> None:
    """100 tokens at 3e-8 beside one token with the rest of the mass: 30 of 1e7 rows draw a rare token."""
    rows, parts = 10_000_000, 20
    row = torch.full((102,), math.log(3e-8))
    row[0], row[101] = math.log1p(-100 * 3e-8), 5.0  # the last is the mask
    rare = 0
    for part in range(parts):
        ids = torch.arange(part * rows // parts, (part + 1) * rows // parts)
        step = unmask(
            row.expand(len(ids), 102), torch.full((len(ids),), 101), len(ids), mask_id=101, order="random",
            noise=ag.KeyedNoise(21, ids),
        )  # fmt: skip
        rare += int((step.tokens > 0).sum())
    assert abs(rare - 30) < 5 * math.sqrt(30)


def test_rare_tokens_of_ten_million_positions_by_law() -> None:
    """The same, drawn by law; half of the mass is the mask's, so half of the rows are drawn twice."""
    rows = 10_000_000
    row = torch.full((102,), math.log(3e-8))
    row[0], row[101] = math.log1p(-100 * 3e-8), 0.0
    step = unmask(
        row.expand(rows, 102), torch.full((rows,), 101), rows, mask_id=101, order="random",
        generator=torch.Generator().manual_seed(22),
    )  # fmt: skip
    assert abs(int((step.tokens > 0).sum()) - 30) < 5 * math.sqrt(30)


# --- what float32 loses elsewhere ----------------------------------------------------------------------------------


def closed_form(p: float, m: float) -> float:
    return DELTA / math.expm1(DELTA * m / p)


def on_the_lattice(p: float, m: float) -> float:
    """The probability that a token of probability p beats a mask of probability m in the float32 race
    ``p / (1e-10 - log(u + 1e-10))``, u a multiple of 2^-24: summed over all u of the token and of the mask."""
    u = np.arange(1 << 24, dtype=np.float32) * np.float32(DELTA)
    eps = np.float32(1e-10)
    arrival = (eps - np.log(u + eps)).astype(np.float64)[::-1]  # rising
    first = arrival[: 1 << 15]  # later arrivals of the token have no chance
    later = (1 << 24) - np.searchsorted(arrival, first * m / p, side="right")
    return float((later * DELTA).sum() * DELTA)


@pytest.mark.parametrize(("p", "golden"), [(5.96e-7, 5.666e-7), (DELTA, 3.463e-8), (0.3 * DELTA, 2.19e-9)])
def test_the_closed_form_of_float32_races(p: float, golden: float) -> None:
    exact = on_the_lattice(p, 1 - p)
    assert exact == pytest.approx(golden, rel=2e-3)
    assert closed_form(p, 1 - p) == pytest.approx(exact, rel=1e-2)


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (ValueError, "tokens must have the shape of logits without the vocabulary", {"tokens": torch.zeros(3).long()}),
        (TypeError, "tokens must be a tensor of integers", {"tokens": torch.zeros(2, 3)}),
        (TypeError, "logits must have a floating dtype", {"logits": torch.zeros(2, 3, 4).long()}),
        (ValueError, "k must be given, or rate", {"k": None}),
        (ValueError, "k must be given, or rate", {"rate": 0.5}),
        (ValueError, "k must be at least 0", {"k": -1}),
        (ValueError, "k must be at least 0 everywhere", {"k": torch.tensor([1, -1])}),
        (ValueError, "k must be a number, or integers that broadcast", {"k": torch.tensor([1, 1, 1])}),
        (TypeError, "k must be a tensor of integers", {"k": torch.tensor([1.0, 1])}),
        (ValueError, 'rate must come with order="random"', {"k": None, "rate": 0.5}),
        (ValueError, "rate must be at most 1", {"k": None, "rate": 1.5, "order": "random"}),
        (ValueError, "rate must lie between 0 and 1", {"k": None, "rate": torch.tensor(-1.0), "order": "random"}),
        (ValueError, "rate must broadcast", {"k": None, "rate": torch.zeros(5), "order": "random"}),
        (ValueError, "order must be one of", {"order": "luck"}),
        (ValueError, "order_temperature must be", {"order_temperature": -1}),
        (ValueError, "temperature must be", {"temperature": -1}),
        (ValueError, "temperature must be at least 0 and finite everywhere", {"temperature": torch.tensor(-1.0)}),
        (ValueError, "temperature must be one number", {"temperature": torch.ones(4)}),
        (ValueError, "noise must be a KeyedNoise", {"noise": torch.zeros(2, 3, 4), "order": "random"}),
        (ValueError, "noise must have the shape", {"noise": torch.zeros(2, 4)}),
        (ValueError, "generator must be left out", {"noise": ag.KeyedNoise(0), "generator": torch.Generator()}),
        (TypeError, "within must be a bool tensor", {"within": torch.zeros(3)}),
        (ValueError, "within must broadcast", {"within": torch.ones(4, dtype=torch.bool)}),
        (TypeError, "mask must be a bool tensor", {"mask": torch.zeros(4)}),
        (ValueError, "mask must broadcast", {"mask": torch.ones(3, dtype=torch.bool)}),
        (ValueError, "logits must allow at least one item", {"mask": torch.zeros(4, dtype=torch.bool)}),
        (ValueError, "logits must not be NaN", {"logits": torch.full((2, 3, 4), torch.nan)}),
        (ValueError, "logits must not be NaN", {"logits": torch.full((2, 3, 4), torch.nan), "temperature": 0}),
        (ValueError, "logits must not be NaN", {"logits": torch.full((2, 3, 4), torch.nan), "order": "entropy"}),
        (TypeError, "mask_id must be an integer", {"mask_id": 1.0}),
    ],
)  # fmt: skip
def test_bad_input(error: type[Exception], message: str, change: dict[str, object]) -> None:
    arguments: dict[str, object] = {
        "logits": torch.zeros(2, 3, 4), "tokens": torch.full((2, 3), 3), "k": 1, "mask_id": 3, **change,
    }  # fmt: skip
    with pytest.raises(error, match=message):
        unmask(**arguments)  # type: ignore[arg-type]


def test_compiled_and_under_vmap() -> None:
    logits, tokens = problem()
    rows = torch.arange(15).reshape(3, 5)
    want = unmask(logits, tokens, 2, mask_id=MASK, noise=ag.KeyedNoise(3, rows))

    def step(x: Tensor, t: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        found = unmask(x, t, 2, mask_id=MASK, noise=ag.KeyedNoise(3, r))
        return found.tokens, found.chosen

    compiled = torch.compile(step, backend="eager", fullgraph=True)
    for a, b in zip(compiled(logits, tokens, rows), want, strict=False):
        assert torch.equal(a, b)
    for a, b in zip(torch.vmap(step)(logits, tokens, rows), want, strict=False):
        assert torch.equal(a, b)


def test_the_law_compiled_and_under_vmap() -> None:
    logits = torch.tensor([0.3, -0.5, 0.0, 1.0, 2.0])
    p = (logits[:4].double() / 0.8).softmax(-1)
    rows, tokens = logits.expand(400, 50, 5), torch.full((400, 50), 4)

    def step(x: Tensor, t: Tensor) -> Tensor:
        return unmask(x, t, 50, mask_id=4, temperature=0.8).tokens

    torch.manual_seed(0)
    check_draws(torch.compile(step, backend="eager", fullgraph=True)(rows, tokens), p)
    check_draws(torch.vmap(step, randomness="different")(rows, tokens), p)
    check_draws(torch.vmap(step, in_dims=(0, None), randomness="different")(rows, tokens[0]), p)
