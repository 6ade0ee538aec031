"""Stochastic beam search: k different texts, an exact sample without replacement from a model of texts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import kernels
from .._core.checks import can_raise, check_logits, count, floating, integer
from ..kernels.posterior import strictly_below
from ..noise import KeyedNoise, draw_like
from ..reverse import condition_max
from ._texts import Step, TextNoise, check_text, finish, flat_rows, mix, next_logits, refuse_bad_logits

__all__ = ["Beams", "expand", "stochastic_beam_search"]

SPARE = 8  # candidates of a beam beyond the k best by float32, whose order float64 may change


class Beams(NamedTuple):
    """Texts in the order drawn, the log probability of each text, and its value: falling along the last dimension."""

    tokens: Tensor
    log_probs: Tensor
    values: Tensor


def expand(
    values: Tensor,
    log_probs: Tensor,
    *,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``condition_max(log_probs + G, values)``: the values of the children of nodes whose values are known.

    The value of a node is the largest value of its children. So the children are a race with a known maximum: run the
    race, and move its maximum. If the value of the node is a Gumbel at the log probability of the node, then the values
    of the children have the law of log_probs + noise. A *keyed* function: G is one number of noise per child.

    Args:
        values: the values of the nodes, ``(*batch,)``, any floating dtype. A node of the value -inf has children of the
            value -inf.
        log_probs: the log probabilities of the children, ``(*batch, n)``, any floating dtype. Children have the log
            probability of the node plus their own; -inf forbids a child.
        noise: a tensor of Gumbel noise in the shape of log_probs, or a ``KeyedNoise``.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        The values of the children, ``(*batch, n)``, in the dtype of log_probs. The largest is exactly the value of the
        node, all others are strictly smaller.

    Raises:
        ValueError: NaN or +inf in log_probs, a row with nothing allowed, values of the wrong shape, NaN or +inf, noise
            of the wrong shape, both noise and generator. On an accelerator, under ``torch.compile`` and under ``vmap``
            a bad row is NaN instead.
        TypeError: values or log_probs are not floating tensors.

    Example:
        >>> import torch
        >>> from argumbel.sequences import expand
        >>> children = expand(torch.tensor(0.5), torch.tensor([0.2, 0.8]).log())
        >>> children.max()
        tensor(0.5000)

    Source: Kool, van Hoof and Welling 2019, "Stochastic beams and where to find them".
    """
    check_logits(log_probs, "log_probs")
    floating("values", values)
    if values.shape != log_probs.shape[:-1]:
        raise ValueError(
            f"values must have the shape {tuple(log_probs.shape[:-1])} of log_probs without the last dimension, but "
            f"the shape is {tuple(values.shape)}; pass one value for each node"
        )
    dead = (values == -torch.inf).unsqueeze(-1)
    g = draw_like(log_probs, log_probs.ndim - 1, noise, generator, "gumbel")
    nowhere = ~(log_probs.amax(-1, keepdim=True).isfinite() | dead)
    unsound = (values.isnan() | (values == torch.inf)).unsqueeze(-1)
    if can_raise(log_probs) and can_raise(values):
        if bool(nowhere.any()):
            raise ValueError(
                "log_probs must not be NaN or +inf, and must allow at least one child of each node, but some row does "
                "not; give nodes without children the value -inf"
            )
        if bool(unsound.any()):
            raise ValueError("values must not be NaN or +inf, but some are; find where they come from")
    # One offset for a node: far from 0 the sum would round the noise away.
    x = log_probs.to(g.dtype).masked_fill(dead, 0)
    peak = x.detach().amax(-1, keepdim=True)
    peak = peak.masked_fill(~peak.isfinite(), 0)
    height = values.to(g.dtype).masked_fill(dead.squeeze(-1), 0)
    race = (x - peak) + g
    moved = condition_max(race, height - peak.squeeze(-1)) + peak
    won = race == race.amax(-1, keepdim=True)
    top = height.unsqueeze(-1)
    result = torch.where(won, top.to(log_probs.dtype), strictly_below(moved, top, log_probs.dtype))
    return result.masked_fill(dead | (x == -torch.inf), -torch.inf).masked_fill(nowhere | unsound, torch.nan)


def stochastic_beam_search(
    step: Step,
    start: Tensor,
    k: int,
    length: int,
    *,
    end: int | None = None,
    reorder: Callable[[Any, Tensor], Any] | None = None,
    noise: KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Beams:
    """``topk(log_prob(text) + G(text), k)`` over all texts of a model: k different texts, without replacement.

    A text is drawn as a path through the tree of prefixes. The value of a prefix is the largest value of its texts, so
    a search from the root down that keeps the k best prefixes finds the k best texts, and looks at k prefixes of each
    length. A *keyed* function: the noise of a child is a function of the seed, the id of the prompt, a hash of the
    prefix, and the token. So the texts are the same in every batch, and the first k of k + 1 texts are those of k.

    The values are those of a draw without replacement: :func:`argumbel.threshold_weights` turns k + 1 texts into
    weights for the first k, with which sums over all texts are estimated without bias.

    Args:
        step: the model, :class:`Step`: ``step(tokens, state) -> (logits, state)``. A state may also be made for other
            rows by ``reorder``. The last of the logits are used.
        start: the prompts, integers ``(*batch, m)``, m at least 1.
        k: how many texts for each prompt, at least 1.
        length: how many tokens to draw, at least 1.
        end: the token after which a text is over. Default: every text has the full length.
        reorder: ``reorder(state, rows)`` returns the state of the given rows, an int64 tensor, for the next call; a row
            may occur many times or never. Default: all tensors in the state, in nested tuples, lists and dictionaries,
            are indexed along their first dimension.
        noise: a ``KeyedNoise``. Its row ids are the ids of the prompts, ``(*batch,)``; default 0, 1, 2, ..., or 0 for
            all if it has a seed for each prompt.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        ``(tokens, log_probs, values)``: int64 tokens ``(*batch, k, length)``, filled up by ``end`` after the end of a
        text, and float64 ``(*batch, k)``: log probabilities, differentiable in the logits, and falling values. If a
        model has fewer than k texts, the missing ones have the log probability and the value -inf (leave out all but
        one of them for ``threshold_weights``). The search stops when all texts are over; on an accelerator it waits for
        the device after every token to see whether they are, if ``end`` is given.

    Raises:
        ValueError: k or length less than 1, prompts without a token, logits that are NaN or +inf, that allow no token,
            or that have the wrong shape, both noise and generator. On an accelerator bad logits give the value -inf.
        TypeError: start does not hold integers, k, length or end is not an integer, step does not return a pair, noise
            is not a ``KeyedNoise``.

    Example:
        >>> import torch, argumbel as ag
        >>> table = torch.randn(5, 5)  # a model that looks at one token
        >>> beams = ag.sequences.stochastic_beam_search(lambda t, s: (table[t], s), torch.tensor([0]), 4, 3)
        >>> weights = ag.threshold_weights(beams.values, beams.log_probs)
        >>> beams.tokens.shape, weights.shape
        (torch.Size([4, 3]), torch.Size([3]))

    Source: Kool, van Hoof and Welling 2019, "Stochastic beams and where to find them".
    """
    batch = check_text("start", start)
    k, length = count("k", k, least=1), count("length", length, least=1)
    end = None if end is None else integer("end", end)
    device, texts = start.device, math.prod(batch)
    source = TextNoise(noise, generator, batch, device)
    at = torch.arange(texts, device=device)[:, None]

    hashes = finish(source.ids)[:, None]  # (texts, beams), as all that follows
    log_probs = torch.zeros(texts, 1, dtype=torch.float64, device=device)
    # The whole tree is one Gumbel at log 1. Its row is that of a prefix that does not exist.
    root = source.of_rows(mix(hashes, torch.full_like(hashes, -1)))
    values = root.gumbel((texts, 1, 1), dtype=torch.float64, device=device).squeeze(-1)
    done = torch.zeros(texts, 1, dtype=torch.bool, device=device)
    tokens = torch.empty(texts, 1, 0, dtype=torch.int64, device=device)
    feed, state = flat_rows(start), None
    for t in range(length):
        logits, state = next_logits(step, feed, state)
        beams = hashes.shape[1]
        x = logits.reshape(texts, beams, logits.shape[-1])
        idle = done | (values == -torch.inf)
        if not can_raise(x) or bool(idle.any()):
            x = x.masked_fill(idle.unsqueeze(-1), 0)
        refuse_bad_logits(x)
        child, child_log_probs, child_values = _children(x, k, source, hashes, log_probs, values)
        if end is not None:  # a text that is over is its own only child
            only = torch.arange(child.shape[-1], device=device) == 0
            over = done.unsqueeze(-1)
            child = torch.where(over, end, child)
            child_log_probs = torch.where(over, log_probs.unsqueeze(-1), child_log_probs)
            kept = values.unsqueeze(-1).masked_fill(~only, -torch.inf)
            child_values = torch.where(over, kept, child_values)
        values, best = child_values.flatten(1).topk(min(k, beams * child.shape[-1]), -1)
        parent = best // child.shape[-1]
        child, log_probs = child.flatten(1).gather(1, best), child_log_probs.flatten(1).gather(1, best)
        hashes, done = mix(hashes.gather(1, parent), child), done.gather(1, parent)
        tokens = torch.cat([tokens[at, parent], child.unsqueeze(-1)], -1)
        if end is not None:
            done = done | (child == end)
            if bool((done | (values == -torch.inf)).all()):
                break
        if t + 1 < length:
            state = (reorder or _reorder)(state, (at * beams + parent).reshape(-1))
            feed = child.reshape(-1, 1)
    missing = k - values.shape[1]
    fill = 0 if end is None else end
    tokens = torch.nn.functional.pad(tokens, (0, length - tokens.shape[-1], 0, missing), value=fill)
    values = torch.nn.functional.pad(values, (0, missing), value=-torch.inf)
    log_probs = torch.nn.functional.pad(log_probs, (0, missing), value=-torch.inf)
    absent = values == -torch.inf
    tokens, log_probs = tokens.masked_fill(absent.unsqueeze(-1), fill), log_probs.masked_fill(absent, -torch.inf)
    return Beams(tokens.reshape(*batch, k, length), log_probs.reshape(*batch, k), values.reshape(*batch, k))


def _children(
    x: Tensor, k: int, source: TextNoise, hashes: Tensor, log_probs: Tensor, values: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The best children of every beam: tokens, log probabilities and values, ``(texts, beams, c)``, not in order.

    float32 finds them among all tokens. Their values come from noise and log probabilities in float64, since the value
    of a child far above its siblings stands in the small difference of two numbers.
    """
    c = min(k + SPARE, x.shape[-1])
    noise = source.of_rows(hashes)
    _, child, _ = kernels.gumbel_topk(x.detach(), c, noise.key(x.shape, x.device))
    absent = child < 0  # fewer tokens are allowed
    child = child.clamp(min=0)
    peak = x.detach().amax(-1, keepdim=True).to(kernels.work_dtype(x.dtype))
    log_z = (x - peak).exp().sum(-1, keepdim=True).double().log()  # of a float32 sum, not itself in float32
    own = (x.gather(-1, child).double() - peak.double()) - log_z
    own = own.masked_fill(absent, -torch.inf)
    child_log_probs = log_probs.unsqueeze(-1) + own
    g = source.of_rows(hashes, child).gumbel(child.shape, dtype=torch.float64, device=x.device)
    child_values = expand(values, child_log_probs.detach(), noise=g)
    bad = child_values.isnan()  # bad logits, where they raise no error
    return child, child_log_probs, child_values.masked_fill(bad, -torch.inf)


def _reorder(state: Any, rows: Tensor) -> Any:
    if isinstance(state, Tensor):
        return state.index_select(0, rows.to(state.device))
    if isinstance(state, dict):
        return {name: _reorder(part, rows) for name, part in state.items()}
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        return type(state)(*(_reorder(part, rows) for part in state))
    if isinstance(state, (tuple, list)):
        return type(state)(_reorder(part, rows) for part in state)
    if state is None:
        return None
    raise TypeError(
        "state must be made of tensors, tuples, lists and dictionaries, but some of it is a "
        f"{type(state).__name__}; pass reorder=, a function that returns the state of given rows"
    )
