"""The sampling step of masked diffusion: our call, which draws by law, its check, also under a key, and the formulas of
models' own code."""

from __future__ import annotations

import torch
from torch import Tensor

from argumbel import KeyedNoise
from argumbel.sequences import unmask

from . import laws
from .ops import op
from .peers import Call, peer
from .problem import Problem

TEMPERATURE = 0.8
DRAW, STEP = "sequences.unmask, every position", "sequences.unmask, by confidence"

# Names that targets refer to.
LLADA, MDLM = "LLaDA: exp(l) / (-log u)^T, float64", "MDLM: float32, epsilons of 1e-10"


def masked(p: Problem) -> tuple[Tensor, int]:
    """Tokens that are all masked, and the id of the mask: the last of the vocabulary."""
    mask_id = p.logits.shape[-1] - 1
    return torch.full(p.logits.shape[:-1], mask_id, device=p.device), mask_id


def _check(p: Problem, order: str, k: int) -> None:
    tokens, mask_id = masked(p)
    noise = KeyedNoise(seed=5)
    keys = p.logits.float() / TEMPERATURE + noise.gumbel(p.logits.shape, dtype=torch.float32)
    keys[..., mask_id] = -torch.inf
    step = unmask(p.logits, tokens, k, mask_id=mask_id, temperature=TEMPERATURE, order=order, noise=noise)
    drawn = keys.argmax(-1)
    assert int(step.chosen.sum()) == k
    assert torch.equal(step.tokens[step.chosen], drawn[step.chosen]), "not the tokens of the plain expression"
    if order == "confidence":
        exact = p.logits.double()
        exact[..., mask_id] = -torch.inf
        exact = exact.log_softmax(-1).gather(-1, drawn.unsqueeze(-1)).squeeze(-1)
        assert float((step.confidences - exact).abs().max()) < 1e-5
        assert float(exact[step.chosen].min()) >= float(exact.topk(k).values[-1]) - 1e-5, "not the most confident"

    generator = p.generator(6)

    def at_size() -> Tensor:
        return unmask(
            p.logits, tokens, len(tokens), mask_id=mask_id, temperature=TEMPERATURE, order=order, generator=generator
        ).tokens

    law = p.logits.double() / TEMPERATURE
    law[..., mask_id] = -torch.inf
    laws.check_categorical(law, laws.repeat(at_size, 5000))

    def draw(x: Tensor, generator: torch.Generator) -> Tensor:
        x = torch.nn.functional.pad(x, (0, 1), value=1.0)  # the mask, which is often drawn at first
        tokens = torch.full(x.shape[:-1], x.shape[-1] - 1, device=x.device)
        return unmask(x, tokens, len(x), mask_id=x.shape[-1] - 1, order=order, generator=generator).tokens

    laws.check_few_items(p.size.dtype, draw, p.device)


@op(DRAW, lambda p: _check(p, "random", len(p.logits)))
def _(p: Problem) -> Call:
    tokens, mask_id = masked(p)
    return lambda: unmask(p.logits, tokens, len(tokens), mask_id=mask_id, temperature=TEMPERATURE, order="random")


@op(STEP, lambda p: _check(p, "confidence", max(1, len(p.logits) // 4)))
def _(p: Problem) -> Call:
    tokens, mask_id = masked(p)
    return lambda: unmask(p.logits, tokens, max(1, len(tokens) // 4), mask_id=mask_id, temperature=TEMPERATURE)


# ---------------------------------------------------------------------------------------------------------------- peers


def llada(logits: Tensor) -> Tensor:
    x = logits.to(torch.float64)
    return (x.exp() / (-torch.log(torch.rand_like(x))) ** TEMPERATURE).argmax(-1)


def mdlm(logits: Tensor) -> Tensor:
    probs = (logits.float() / TEMPERATURE).softmax(-1)
    return (probs / (1e-10 - (torch.rand_like(probs) + 1e-10).log())).argmax(-1)


def with_confidence(p: Problem, draw: Call) -> Call:
    """The rest of the step of LLaDA's ``generate``: the drawn tokens' probabilities, and the largest of these."""

    def call() -> Tensor:
        drawn = draw()
        confidence = p.logits.softmax(-1).gather(-1, drawn.unsqueeze(-1)).squeeze(-1)
        return confidence.topk(max(1, len(drawn) // 4)).indices

    return call


for _name, _draw in ((LLADA, llada), (MDLM, mdlm)):

    @peer(_name, DRAW)
    def _(p: Problem, draw=_draw) -> Call:  # type: ignore[no-untyped-def]
        return lambda: draw(p.logits)

    @peer(_name, STEP)
    def _(p: Problem, draw=_draw) -> Call:  # type: ignore[no-untyped-def]
        return with_confidence(p, lambda: draw(p.logits))


@peer("torch.amax", DRAW, STEP, floor=True)
def _(p: Problem) -> Call:
    return lambda: p.logits.amax(-1)
