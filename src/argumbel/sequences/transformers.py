"""Adapters for Hugging Face transformers, which this module does not import: a processor for its ``generate``, and its
models as steps of the searches here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._core.checks import check_temperature, integers, number
from ..choice import gumbel_max
from ._tokens import request_noise, seed_tensor, truncate

__all__ = ["CausalStep", "GumbelProcessor"]


class CausalStep:
    """``step(tokens, cache) -> (logits, cache)``: a causal language model of transformers with its cache, as
    :func:`argumbel.sequences.stochastic_beam_search`, :func:`argumbel.sequences.speculative_decode` and
    :func:`argumbel.sequences.counterfactual_text` call a model.

    Prompts of one call have the same length: nothing is padded. A cache goes on where the last call ended; a search
    that keeps other rows, or fewer tokens, says so by :meth:`reorder` and :meth:`crop`.

    Args:
        model: a causal language model of transformers: ``model(input_ids=, past_key_values=, use_cache=True)`` returns
            ``logits`` and ``past_key_values``. Put it into evaluation mode; call the search under ``torch.no_grad`` if
            no gradient is wanted.
        temperature: divides the logits; above 0.

    Raises:
        ValueError: temperature is not above 0.

    Example:
        With models of transformers over one vocabulary::

            step, small = CausalStep(model), CausalStep(small_model)
            prompt = tokenizer("The race is", return_tensors="pt")["input_ids"]
            beams = stochastic_beam_search(step, prompt, 10, 20, reorder=step.reorder)
            text = speculative_decode(step, small, prompt, 100, crop=step.crop)

    Source: the ``Cache`` of transformers.
    """

    def __init__(self, model: Any, *, temperature: float = 1) -> None:
        self.model = model
        self.temperature = number("temperature", temperature, least=0)
        if self.temperature == 0:
            raise ValueError("temperature must be above 0, but it is 0; take the argmax of the logits")

    def __call__(self, tokens: Tensor, cache: Any) -> tuple[Tensor, Any]:
        out = self.model(input_ids=tokens, past_key_values=cache, use_cache=True)
        logits = out.logits if self.temperature == 1 else out.logits / self.temperature
        return logits, out.past_key_values

    @staticmethod
    def reorder(cache: Any, rows: Tensor) -> Any:
        """The cache of the given rows, which may occur many times or never."""
        cache.reorder_cache(rows)
        return cache

    @staticmethod
    def crop(cache: Any, size: int) -> Any:
        """The cache of the first ``size`` tokens."""
        surplus = cache.get_seq_length() - size
        if surplus > 0:
            cache.crop(-surplus)
        return cache


class GumbelProcessor:
    """A logits processor under which plain ``generate(do_sample=False)`` returns samples: the token of request i at
    position t is the winner under ``KeyedNoise(seeds[i], rows=t)``, as :func:`argumbel.sequences.next_tokens` draws it.

    t counts the tokens of the request itself that stand before, of prompt and answer, without padding. So a request
    gets the same text alone and in any batch, in any place and with any padding (as far as the model gives it the same
    logits), and a text that is given back as the prompt goes on as it would have gone on.

    The scores returned are the log probability of the token drawn, after temperature and truncation, and -inf for all
    other tokens. So ``output_scores=True`` gives the log probability of every token; ``output_logits=True`` gives the
    model's logits.

    Put it last in the list: a processor after it can no longer change the choice. The processors that ``generate``
    makes itself (repetition penalty, least length, bad words) come before it. ``temperature`` and ``top_p`` of
    ``generate`` do nothing here; give them to the processor.

    **Where it is sound.** Greedy and sampling modes (the scores leave one token to choose), with or without a cache.
    Assisted generation and prompt lookup: the answer is the answer without an assistant, and an assistant model drafts
    under the same noise, which is why its drafts are often accepted. An assistant with ``assistant_ensemble_weight``
    mixes the two models' scores, and there it is not sound. Nor is it in beam search, which adds up scores of several
    continuations: for different texts from one prompt use :func:`argumbel.sequences.next_tokens` step by step, or
    ``num_return_sequences`` with a seed for each. Continuous batching drops it; draw there with ``next_tokens``.

    Args:
        seeds: one 64-bit seed for each request, int64 ``(batch,)`` or a sequence of integers. With
            ``num_return_sequences`` one for each sequence returned, those of the first request first. A number is the
            seed of a single request.
        temperature: at least 0; a number, or a tensor with one number for each request. 0 is the argmax.
        top_k: keep the tokens whose score is at least the k-th largest.
        top_p: keep the likeliest tokens, as few as have together at least this probability.
        min_p: keep the tokens with at least this part of the largest probability.
        attention_mask: of the prompts, ``(batch, length)``, as ``generate`` gets it; needed where prompts are padded on
            the left. (Of an encoder and a decoder leave it out: it is the encoder's.)

    Raises:
        ValueError: seeds for another number of requests than ``generate`` asks for, prompts padded on the right, a
            parameter out of range.
        TypeError: seeds or attention_mask are not integers.

    Example:
        >>> import torch
        >>> from argumbel.sequences.transformers import GumbelProcessor
        >>> processor = GumbelProcessor([7, 8], temperature=0.8, top_p=0.95)
        >>> prompts, logits = torch.tensor([[5, 2], [9, 4]]), torch.randn(2, 1000)
        >>> scores = processor(prompts, logits)
        >>> (scores > -torch.inf).sum(-1)
        tensor([1, 1])

        With a model of transformers::

            inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
            processor = GumbelProcessor(seeds, top_p=0.95, attention_mask=inputs["attention_mask"])
            texts = model.generate(**inputs, do_sample=False, logits_processor=[processor])
    """

    #: Continuous batching packs requests into one row, and asks processors for this.
    supports_continuous_batching = False

    def __init__(
        self,
        seeds: int | Sequence[int] | Tensor,
        *,
        temperature: float | Tensor = 1,
        top_k: int | Tensor | None = None,
        top_p: float | Tensor | None = None,
        min_p: float | Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> None:
        if not isinstance(seeds, Tensor):
            seeds = seed_tensor([seeds] if isinstance(seeds, int) else seeds)
        self.seeds = integers("seeds", seeds).to(torch.int64).reshape(-1)
        self.temperature = check_temperature(temperature, self.seeds.unsqueeze(-1), "logits")
        self.limits: dict[str, Any] = {"top_k": top_k, "top_p": top_p, "min_p": min_p}
        self.padding = None if attention_mask is None else _padding(attention_mask)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        batch, length = input_ids.shape
        if len(self.seeds) != batch:
            raise ValueError(
                f"seeds must give one seed for each of the {batch} rows that generate asks for, but there are "
                f"{len(self.seeds)}; give one for each prompt, and for each sequence of num_return_sequences (beam "
                "search is not supported)"
            )
        positions = torch.full((batch,), length, device=scores.device)
        if self.padding is not None:
            positions = positions - self._padding_of(batch).to(scores.device)
        work = scores if scores.dtype == torch.float64 else scores.float()
        left = truncate(work, temperature=self.temperature, **self.limits)
        place = gumbel_max(left, noise=request_noise(left, self.seeds, positions)).indices.clamp(min=0).unsqueeze(-1)
        own = left.log_softmax(-1).gather(-1, place).to(scores.dtype)
        return torch.full_like(scores, -torch.inf).scatter(-1, place, own)

    def _padding_of(self, batch: int) -> Tensor:
        assert self.padding is not None
        each = batch // max(1, len(self.padding))
        if each * len(self.padding) != batch:
            raise ValueError(
                f"attention_mask must be of the prompts that generate gets, but it is of {len(self.padding)} prompts "
                f"and generate asks for {batch} rows; pass the mask that generate gets"
            )
        return self.padding.repeat_interleave(each)


def _padding(attention_mask: Tensor) -> Tensor:
    """How many places before each prompt are padding."""
    mask = (attention_mask if attention_mask.dtype == torch.bool else integers("attention_mask", attention_mask)) != 0
    if mask.ndim != 2:
        raise ValueError(
            f"attention_mask must have the shape (batch, length), but its shape is {tuple(mask.shape)}; pass the mask "
            "that generate gets"
        )
    padding = (mask.cumsum(-1) == 0).sum(-1)
    if bool((padding + mask.sum(-1) != mask.shape[-1]).any()):
        raise ValueError(
            "attention_mask must have its padding on the left, but some prompt is padded elsewhere; call the tokenizer "
            'with padding_side="left"'
        )
    return padding
