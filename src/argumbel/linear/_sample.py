"""The winner of a linear layer under given noise, and a random draw."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import kernels
from .._core.checks import one_or_rows
from .._core.modes import is_differentiated
from ..choice import Choice
from ..kernels.linear import over_chunks
from ..kernels.race import winner
from ..noise import KeyedNoise, as_keyed, draw_like, seed_from, work_dtype
from ._layer import layer_of, score, sound

__all__ = ["linear_categorical", "linear_gumbel_max"]


def linear_gumbel_max(
    hidden: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Choice:
    """``torch.max((hidden @ weight.T + bias) / temperature + noise, -1)`` with standard Gumbel noise. The logits are
    never stored: they are computed for one chunk of items at a time, and only the winner of each chunk is kept.

    A *keyed* function: the choice is the choice of :func:`argumbel.gumbel_max` from these logits under the same noise,
    up to the rounding of the matrix product. The index is an exact draw from the softmax of the logits. The logits are
    computed in float32, or in float64 for float64 inputs: in half precision, many logits would tie for the largest.

    Args:
        hidden: the inputs of the layer, ``(*batch, d)``, any floating dtype.
        weight: ``(n, d)``, in the dtype of hidden; each row is an item. Under ``torch.autocast`` the dtypes may differ,
            and hidden and weight are rounded to autocast's dtype, as ``torch.nn.functional.linear`` rounds them.
        bias: ``(n,)``, any floating dtype; -inf forbids an item. Default: no bias.
        temperature: at least 0; a number, or a tensor that broadcasts to ``(*batch,)``. Where it is 0 (or below 2^-60)
            logits are neither divided nor perturbed: the choice is the argmax of the logits, and its value is the
            largest logit.
        noise: a tensor of Gumbel noise, ``(*batch, n)``, or a ``KeyedNoise``, whose items may be the ids of a shard of
            the vocabulary.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        ``(values, indices)``, each ``(*batch,)``. Values are float32, or float64 for float64 inputs, so that the
        winners of several shards can be compared. Indices are int64 rows of weight; if values are equal, the lowest
        index wins. The gradient of a value is the gradient of the winner's logit (and of its noise).

    Raises:
        ValueError: shapes that do not fit, a negative or infinite temperature, NaN or infinities in hidden or weight,
            NaN or +inf in bias, a bias of -inf throughout, logits that overflow, noise or ids of the wrong shape, both
            noise and generator. On an accelerator, under ``torch.compile`` and under ``vmap`` a bad row gives value NaN
            and index -1 instead.
        TypeError: an argument is not a floating tensor, or hidden and weight differ in dtype (not under autocast).

    Example:
        >>> import torch, argumbel as ag
        >>> hidden, weight = torch.randn(4, 16), torch.randn(50_000, 16)
        >>> noise = ag.KeyedNoise(seed=0)
        >>> token = ag.linear_gumbel_max(hidden, weight, temperature=0.8, noise=noise).indices
        >>> bool((token == ag.gumbel_max(hidden @ weight.T / 0.8, noise=noise).indices).all())
        True

    Source: Ruiz, Qin, Zhang, Shen, Zhong and Wang 2026, "FlashSampling: fast and memory-efficient exact sampling"
    (arXiv:2603.15854).
    """
    layer = layer_of(hidden, weight, bias, temperature)
    shape = (*hidden.shape[:-1], weight.shape[0])
    g = None
    with torch.no_grad():
        fixed_layer = layer.detach()
        parts = (*fixed_layer[:3], one_or_rows(fixed_layer.temperature, hidden, work_dtype(hidden.dtype)))
        if isinstance(noise, Tensor):
            g = draw_like(hidden.new_empty(()).expand(shape), -1, noise, generator, "gumbel")
            fixed = g.detach()
            values, indices = over_chunks(*parts, lambda x, start, stop: winner(x, fixed[..., start:stop]))
        else:
            key = as_keyed(noise, generator, hidden.device).key(shape, hidden.device)
            values, indices, _ = kernels.linear_gumbel_max(*parts, key)
        values, indices = sound(values, indices, layer, noise)
    needs_grad = any(isinstance(x, Tensor) and x.requires_grad for x in (*layer, g)) and torch.is_grad_enabled()
    if needs_grad or is_differentiated():
        differentiable = score(layer, g, indices.clamp(min=0))
        values = values + (differentiable - differentiable.detach())
    return Choice(values.to(work_dtype(hidden.dtype)), indices)


def linear_categorical(
    hidden: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw item ``i`` with probability ``softmax((hidden @ weight.T + bias) / temperature)[i]``. The logits are never
    stored.

    A *law* function: the outcome has exactly this distribution, and the random numbers behind the outcome may differ
    between backends and versions. The largest value in a chunk of items is a Gumbel at the logsumexp of the chunk
    (max-stability), so a draw needs few random numbers. With ``noise=`` the function is *keyed*: it returns the indices
    of :func:`argumbel.linear_gumbel_max`.

    Args:
        hidden: the inputs of the layer, ``(*batch, d)``, any floating dtype.
        weight: ``(n, d)``, in the dtype of hidden; each row is an item. Under ``torch.autocast`` the dtypes may differ,
            and hidden and weight are rounded to autocast's dtype, as ``torch.nn.functional.linear`` rounds them.
        bias: ``(n,)``, any floating dtype; -inf forbids an item. Default: no bias.
        temperature: at least 0; a number, or a tensor that broadcasts to ``(*batch,)``. Where it is 0 (or below 2^-60)
            the draw is the argmax of the logits.
        noise: a tensor of Gumbel noise, ``(*batch, n)``, or a ``KeyedNoise``. Without it the draw is one of law.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        int64 indices ``(*batch,)``: rows of weight. They have no gradient.

    Raises:
        ValueError, TypeError: as :func:`argumbel.linear_gumbel_max`. Where a bad row does not raise an error, it gives
            index -1.

    Example:
        >>> import torch, argumbel as ag
        >>> hidden, weight = torch.zeros(1000, 16), torch.randn(50_000, 16)
        >>> token = ag.linear_categorical(hidden, weight)
        >>> token.shape, bool(400 < (token < 25_000).sum() < 600)
        (torch.Size([1000]), True)

    Source: Maddison, Tarlow and Minka 2014, "A* sampling" (max-stability); Ruiz, Qin, Zhang, Shen, Zhong and Wang 2026,
    "FlashSampling: fast and memory-efficient exact sampling" (arXiv:2603.15854).
    """
    if noise is not None:
        layer = layer_of(hidden, weight, bias, temperature).detach()
        return linear_gumbel_max(
            *layer[:2], bias=layer.bias, temperature=layer.temperature, noise=noise, generator=generator
        ).indices
    layer = layer_of(hidden, weight, bias, temperature).detach()
    seed = seed_from(generator, hidden.device)
    temperatures = one_or_rows(layer.temperature, hidden, work_dtype(hidden.dtype))
    values, indices, _ = kernels.linear_categorical(*layer[:3], temperatures, (seed,))
    return sound(values, indices, layer, None)[1]
