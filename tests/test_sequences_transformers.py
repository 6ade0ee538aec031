"""GumbelProcessor in the ``generate`` of transformers, on small models with random weights. In float64 a batch changes
logits by about 1e-15 of their size, and no race of these tests is that close."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import argumbel as ag
from argumbel.sequences import (
    counterfactual_text,
    next_tokens,
    speculative_decode,
    stochastic_beam_search,
    truncate,
)
from argumbel.sequences.transformers import CausalStep, GumbelProcessor

transformers = pytest.importorskip("transformers")  # `make test-models` installs it

VOCABULARY, NEW = 97, 12
pytestmark = pytest.mark.filterwarnings("ignore")


def gpt2(seed: int = 0, layers: int = 2) -> Any:
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=64, n_embd=32, n_layer=layers, n_head=4, bos_token_id=None, eos_token_id=None
    )
    return model_of(transformers.GPT2LMHeadModel, config, seed)


def llama(seed: int = 0, layers: int = 2) -> Any:
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return model_of(transformers.LlamaForCausalLM, config, seed)


def model_of(kind: Any, config: Any, seed: int) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind(config).double().eval()
        for parameter in model.parameters():  # small weights would give a nearly uniform law
            if parameter.ndim == 2:
                parameter.data.mul_(6)
    model.generation_config.pad_token_id = 0
    return model


MODELS = pytest.mark.parametrize("make", [gpt2, llama])


def prompts(batch: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(1, VOCABULARY, (2 + i % 7,), generator=generator) for i in range(batch)]


def padded(texts: list[Tensor], extra: int = 0) -> dict[str, Tensor]:
    length = max(map(len, texts)) + extra
    ids = torch.stack([torch.cat([torch.zeros(length - len(t), dtype=torch.int64), t]) for t in texts])
    mask = torch.stack([(torch.arange(length) >= length - len(t)).long() for t in texts])
    return {"input_ids": ids, "attention_mask": mask}


def generate(
    model: Any, inputs: dict[str, Tensor], seeds: Any, rules: dict[str, Any] | None = None, **more: Any
) -> Any:
    processor = GumbelProcessor(seeds, attention_mask=inputs["attention_mask"], **(rules or {}))
    arguments = {"do_sample": False, "max_new_tokens": NEW, **more}
    return model.generate(**inputs, logits_processor=[processor], **arguments)


@MODELS
@pytest.mark.parametrize("rules", [{}, {"temperature": 0.7, "top_p": 0.9}])
def test_a_request_alone_in_a_batch_and_padded(make: Any, rules: dict[str, Any]) -> None:
    model, texts = make(), prompts(64)
    seeds = torch.arange(64) * 1_000_003 - 7
    whole = generate(model, padded(texts), seeds, rules)[:, -NEW:]
    assert len({tuple(t.tolist()) for t in whole}) == 64
    for i in (0, 5, 40, 63):
        alone = generate(model, padded(texts[i : i + 1]), int(seeds[i]), rules)[:, -NEW:]
        assert torch.equal(alone[0], whole[i])
        far = generate(model, padded(texts[i : i + 1], extra=9), int(seeds[i]), rules)[:, -NEW:]
        assert torch.equal(far[0], whole[i])
    order = torch.randperm(64, generator=torch.Generator().manual_seed(5))
    moved = generate(model, padded([texts[i] for i in order]), seeds[order], rules)[:, -NEW:]
    assert torch.equal(moved, whole[order])


@MODELS
def test_a_text_is_the_draws_of_its_own_logits(make: Any) -> None:
    """Given the text, one pass over it gives all logits, and next_tokens the same tokens."""
    model, texts = make(), prompts(3)
    text = generate(model, padded(texts[2:3]), 11, {"temperature": 0.9})[0]
    start = len(texts[2])
    with torch.no_grad():
        logits = model(text.unsqueeze(0)).logits[0, start - 1 : -1].float()
    again = next_tokens(logits, 11, torch.arange(start, len(text)), temperature=0.9)
    assert torch.equal(again, text[start:])


@MODELS
def test_a_text_given_back_goes_on(make: Any) -> None:
    model, texts = make(), prompts(1)
    whole = generate(model, padded(texts), 3)[0]
    for cut in (3, 7):
        start = whole[: len(texts[0]) + cut]
        rest = generate(model, padded([start]), 3, max_new_tokens=NEW - cut)[0]
        assert torch.equal(rest, whole)


def test_modes_that_leave_one_token_to_choose() -> None:
    """Sampling, without a cache, several sequences a prompt, and settings of ``generate`` itself."""
    model, texts = gpt2(), prompts(3)
    inputs, seeds = padded(texts), [5, 6, 7]
    want = generate(model, inputs, seeds)
    assert torch.equal(generate(model, inputs, seeds, use_cache=False), want)
    assert torch.equal(generate(model, inputs, seeds, do_sample=True, temperature=3.0, top_k=2), want)
    several = generate(model, inputs, [5, 50, 6, 60, 7, 70], do_sample=True, num_return_sequences=2, top_k=0)
    assert torch.equal(several[::2], want)
    assert not bool((several[1::2] == want).all(-1).any())
    banned = want[0, len(want[0]) - NEW].item()
    without = generate(model, inputs, seeds, bad_words_ids=[[banned]])
    assert not bool((without[:, -NEW:] == banned).any())


def test_scores_are_log_probabilities() -> None:
    model, inputs = llama(), padded(prompts(2))
    result = generate(
        model, inputs, [1, 2], {"temperature": 0.8}, return_dict_in_generate=True, output_scores=True,
        output_logits=True,
    )  # fmt: skip
    tokens = result.sequences[:, -NEW:]
    for t in range(NEW):
        want = (result.logits[t] / 0.8).log_softmax(-1).gather(-1, tokens[:, t : t + 1])
        torch.testing.assert_close(result.scores[t].gather(-1, tokens[:, t : t + 1]), want)
    transitions = model.compute_transition_scores(result.sequences, result.scores)
    torch.testing.assert_close(transitions, torch.stack([s.amax(-1) for s in result.scores], 1))


@MODELS
def test_assisted_generation_gives_the_text_of_no_assistant(make: Any) -> None:
    """An assistant's drafts are checked against the same keyed draws; one that is the model itself is always right."""
    model, other, texts = make(), make(seed=1, layers=1), prompts(4)
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    handle = model.register_forward_hook(count)
    for text in texts[:3]:
        inputs = padded([text])
        want = generate(model, inputs, 13)
        for arguments in (
            {"assistant_model": other},
            {"assistant_model": make(), "num_assistant_tokens": 5},
            {"prompt_lookup_num_tokens": 3},
        ):
            calls = 0
            got = generate(model, inputs, 13, **arguments)
            assert torch.equal(got, want), arguments
            if "num_assistant_tokens" in arguments:
                assert calls < NEW / 2
    handle.remove()


@pytest.mark.parametrize("rules", [{"top_k": 7}, {"top_p": 0.8}, {"min_p": 0.1}, {"top_k": 20, "top_p": 0.7}])
def test_the_cut_is_the_cut_of_transformers(rules: dict[str, Any]) -> None:
    """As many tokens are left, of the same scores. (Of tokens that tie at the end of top_p transformers leaves any.)"""
    scores = torch.randn(50, VOCABULARY, generator=torch.Generator().manual_seed(1)).mul(2).round(decimals=1)
    want = scores / 0.8
    process = transformers.generation.logits_process
    for name, warper in (
        ("top_k", process.TopKLogitsWarper),
        ("top_p", process.TopPLogitsWarper),
        ("min_p", process.MinPLogitsWarper),
    ):
        if name in rules:
            want = warper(rules[name])(None, want)
    ours = truncate(scores, temperature=0.8, **rules)
    assert torch.equal(ours.sort(-1).values, want.sort(-1).values)
    if "top_p" not in rules:
        assert torch.equal(ours, want)
    rows = torch.arange(400).repeat(50, 1)
    tokens = next_tokens(scores.unsqueeze(1).expand(50, 400, -1), 3, rows, temperature=0.8, **rules)
    assert bool((ours > -torch.inf).gather(-1, tokens).all())
    ids = torch.zeros(50, 1, dtype=torch.int64)
    got = GumbelProcessor(list(range(50)), temperature=0.8, **rules)(ids, scores)
    own = got.argmax(-1, keepdim=True)
    torch.testing.assert_close(got.gather(-1, own), ours.log_softmax(-1).gather(-1, own))


def test_beams_are_refused_or_not_samples() -> None:
    """Rows of a beam search are not requests: the number of seeds tells."""
    model, inputs = gpt2(), padded(prompts(2))
    with pytest.raises(ValueError, match="beam search is not supported"):
        generate(model, inputs, [1, 2], num_beams=3)


def test_nothing_warns_in_plain_use() -> None:
    model, inputs = gpt2(), padded(prompts(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generate(model, inputs, [1, 2])


def test_an_encoder_and_a_decoder() -> None:
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    model = model_of(transformers.T5ForConditionalGeneration, config, 0)
    inputs, seeds = padded(prompts(4)), [1, 2, 3, 4]
    arguments: dict[str, Any] = {"do_sample": False, "max_new_tokens": NEW}
    whole = model.generate(**inputs, logits_processor=[GumbelProcessor(seeds)], **arguments)
    one = {name: x[2:3] for name, x in inputs.items()}
    alone = model.generate(**one, logits_processor=[GumbelProcessor(3)], **arguments)
    assert torch.equal(alone[0], whole[2])


@MODELS
def test_beams_with_a_cache_are_the_beams_without(make: Any) -> None:
    """And their log probabilities are those of the whole texts."""
    model, start = make(), torch.stack([p[:2] for p in prompts(3)])
    step, key = CausalStep(model), ag.KeyedNoise(4)
    with torch.no_grad():
        beams = stochastic_beam_search(step, start, 5, 6, reorder=step.reorder, noise=key)
        plain = stochastic_beam_search(_without_cache(model, start), start, 5, 6, noise=key)
        assert torch.equal(beams.tokens, plain.tokens)
        torch.testing.assert_close(beams.log_probs, plain.log_probs, rtol=0, atol=1e-5)
        whole = torch.cat([start[:, None].expand(3, 5, 2), beams.tokens], -1).flatten(0, 1)
        law = model(input_ids=whole).logits[:, 1:-1].log_softmax(-1)
    exact = law.gather(-1, whole[:, 2:, None]).squeeze(-1).sum(-1).reshape(3, 5)
    torch.testing.assert_close(beams.log_probs, exact, rtol=0, atol=1e-4)


def _without_cache(model: Any, start: Tensor) -> Any:
    def step(tokens: Tensor, seen: Any) -> tuple[Tensor, Any]:
        text = tokens if seen is None else torch.cat([seen, tokens], -1)
        return model(input_ids=text).logits[:, -tokens.shape[-1] :], text

    return step


@MODELS
def test_drafts_with_caches(make: Any) -> None:
    """The text is that of the target alone, and the target is called less often. A draft that is the target guesses
    every token."""
    large, small = make(), make(seed=1, layers=1)
    start, key = torch.stack([p[:2] for p in prompts(2)]), ag.KeyedNoise(2)
    with torch.no_grad():
        alone = speculative_decode(CausalStep(large), CausalStep(small), start, 20, lookahead=0, noise=key)
        for draft in small, large:
            steps = CausalStep(large), CausalStep(draft)
            fast = speculative_decode(*steps, start, 20, lookahead=3, crop=CausalStep.crop, noise=key)
            assert torch.equal(fast.tokens, alone.tokens)
            assert fast.target_calls <= alone.target_calls == 20
        assert fast.target_calls == 5


@MODELS
def test_counterfactual_text(make: Any) -> None:
    model, start = make(), torch.stack([p[:2] for p in prompts(2)])
    with torch.no_grad():
        text = speculative_decode(CausalStep(model), CausalStep(model), start, 10, noise=ag.KeyedNoise(1)).tokens
        same = counterfactual_text(CausalStep(model), start, text, noise=ag.KeyedNoise(8))
        other = counterfactual_text(
            CausalStep(model), start, text, new_step=CausalStep(model, temperature=5), noise=ag.KeyedNoise(8)
        )
    assert torch.equal(same, text)
    assert not torch.equal(other, text)
