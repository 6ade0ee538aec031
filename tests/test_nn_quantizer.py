"""GumbelVectorQuantizer: the codes that are drawn, the numbers of its loss, and the checkpoints of fairseq."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import argumbel as ag
from argumbel.nn import GumbelVectorQuantizer
from argumbel.schedules import Constant


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quantizer(**changes: object) -> GumbelVectorQuantizer:
    settings = {"dim": 6, "num_vars": 5, "temp": 1.0, "groups": 2, "vq_dim": 8} | changes
    return GumbelVectorQuantizer(**settings)  # type: ignore[arg-type]


def set_logits(module: GumbelVectorQuantizer) -> None:
    """Make the input the logits."""
    with torch.no_grad():
        module.weight_proj.weight.copy_(torch.eye(module.dim))
        module.weight_proj.bias.zero_()


@pytest.mark.parametrize("combine_groups", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("time_first", [False, True])
def test_features_are_the_chosen_codes(combine_groups: bool, training: bool, time_first: bool) -> None:
    module = quantizer(combine_groups=combine_groups, time_first=time_first).train(training)
    assert module.vars.shape == (1, 5 if combine_groups else 10, 4)
    x = torch.randn(3, 7, 6, generator=seeded())
    out = module(x if time_first else x.mT)
    features = out.x if time_first else out.x.mT
    assert features.shape == (3, 7, 8)
    assert out.indices.shape == (3, 7, 2)
    assert out.indices.dtype == torch.int64
    codes = module.vars[0].reshape(-1, 5, 4)
    for g in range(2):
        expected = codes[0 if combine_groups else g][out.indices[..., g]]
        torch.testing.assert_close(features[..., 4 * g : 4 * g + 4], expected, rtol=0, atol=1e-6)


def test_unbatched_and_deeply_batched_input() -> None:
    module = quantizer().eval()
    x = torch.randn(2, 3, 7, 6, generator=seeded())
    out = module(x)
    assert out.x.shape == (2, 3, 7, 8)
    torch.testing.assert_close(module(x[1, 2]).x, out.x[1, 2])


def test_training_draws_by_gumbel_softmax() -> None:
    module = quantizer(temp=0.7)
    x = torch.randn(3, 7, 6, generator=seeded())
    noise = ag.gumbel((3, 7, 2, 5), generator=seeded(1))
    logits = module.weight_proj(x).reshape(3, 7, 2, 5)
    assert torch.equal(module(x, noise=noise).indices, (logits + noise).argmax(-1))
    assert torch.equal(module(x, generator=seeded(4)).indices, ag.gumbel_max(logits, generator=seeded(4)).indices)


def test_soft_codes_mix_the_codebook() -> None:
    module = quantizer(hard=False, temp=0.7)
    x = torch.randn(3, 7, 6, generator=seeded())
    noise = ag.KeyedNoise(8)
    y = ag.gumbel_softmax(module.weight_proj(x).reshape(3, 7, 2, 5), 0.7, noise=noise)
    expected = torch.cat([y[..., g, :] @ module.vars[0, 5 * g : 5 * g + 5] for g in range(2)], -1)
    torch.testing.assert_close(module(x, noise=noise).x, expected)


def test_evaluation_is_deterministic_and_takes_the_best_code() -> None:
    module = quantizer().eval()
    x = torch.randn(3, 7, 6, generator=seeded())
    first, second = module(x), module(x)
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.indices, module.weight_proj(x).reshape(3, 7, 2, 5).argmax(-1))


def test_gradients_reach_every_parameter() -> None:
    module = quantizer(weight_proj_depth=3, weight_proj_factor=2)
    x = torch.randn(3, 7, 6, generator=seeded()).requires_grad_()
    out = module(x, generator=seeded(1))
    (out.x.square().mean() + 0.1 * (out.num_vars - out.prob_perplexity) / out.num_vars).backward()
    for name, parameter in [*module.named_parameters(), ("x", x)]:
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        assert bool(parameter.grad.ne(0).any()), name
    layers = [
        layer for block in module.weight_proj for layer in (block if isinstance(block, nn.Sequential) else [block])
    ]
    assert [type(layer).__name__ for layer in layers] == ["Linear", "GELU", "Linear", "GELU", "Linear"]
    assert [layer.weight.shape for layer in layers if isinstance(layer, nn.Linear)] == [
        (12, 6), (12, 12), (10, 12)
    ]  # fmt: skip


def test_perplexities_by_hand() -> None:
    # One group pair, two codes each; four tokens. Group 0 takes codes 0, 0, 0, 1; group 1 always code 1.
    # Group 0's average probability is (3 * 0.8 + 0.4) / 4 = 0.7; group 1's is 0.25.
    module = GumbelVectorQuantizer(4, num_vars=2, temp=1.0, groups=2, vq_dim=4)
    set_logits(module)
    x = torch.tensor([[0.8, 0.2, 0.1, 0.9], [0.8, 0.2, 0.3, 0.7], [0.8, 0.2, 0.4, 0.6], [0.4, 0.6, 0.2, 0.8]]).log()

    def perplexity(p: float) -> float:
        return math.exp(-p * math.log(p) - (1 - p) * math.log(1 - p))

    out = module(x)
    assert out.num_vars == 4
    assert out.code_perplexity.item() == pytest.approx(perplexity(0.75) + 1.0, rel=1e-5)
    assert out.prob_perplexity.item() == pytest.approx(perplexity(0.7) + perplexity(0.25), rel=1e-5)
    assert not out.code_perplexity.requires_grad
    assert out.prob_perplexity.requires_grad

    # Without the last token: group 0 is (0.8; all code 0), group 1 is (0.1 + 0.3 + 0.4) / 3.
    masked = module(x, torch.tensor([True, True, True, False]))
    assert masked.x.shape == out.x.shape
    assert masked.code_perplexity.item() == pytest.approx(2.0, rel=1e-5)
    assert masked.prob_perplexity.item() == pytest.approx(perplexity(0.8) + perplexity(0.8 / 3), rel=1e-5)


def test_perplexities_at_their_ends() -> None:
    module = GumbelVectorQuantizer(6, num_vars=3, temp=1.0, groups=2, vq_dim=6)
    set_logits(module)
    collapsed = module(torch.tensor([[1e4, 0.0, 0.0, 0.0, 0.0, 1e4]]).expand(9, 6).requires_grad_())
    assert collapsed.code_perplexity.item() == 2.0
    assert collapsed.prob_perplexity.item() == pytest.approx(2.0)
    # Codes of probability zero give a finite gradient: no 0 * log 0.
    collapsed.prob_perplexity.backward()
    assert all(bool(p.grad.isfinite().all()) for p in module.weight_proj.parameters())
    even = module(torch.eye(3).repeat(1, 2) * 1e4)
    assert even.code_perplexity.item() == pytest.approx(6.0)
    assert even.prob_perplexity.item() == pytest.approx(6.0)


def test_masked_perplexity_equals_that_of_the_frames_that_count() -> None:
    module = quantizer(dim=10)
    x = torch.randn(4, 9, 10, generator=seeded()).requires_grad_()
    mask = torch.rand(4, 9, generator=seeded(1)) < 0.6
    whole, part = module(x, mask), module(x[mask])
    torch.testing.assert_close(whole.code_perplexity, part.code_perplexity)
    torch.testing.assert_close(whole.prob_perplexity, part.prob_perplexity)
    whole.prob_perplexity.backward()
    assert bool(x.grad.isfinite().all())
    assert bool((x.grad[~mask] == 0).all())


def test_tau_of_wav2vec() -> None:
    module = quantizer(temp=(2.0, 0.5, 0.999995))
    assert module(torch.zeros(1, 1, 6)).tau.item() == 2.0
    module.set_step(100_000)
    assert module(torch.zeros(1, 1, 6)).tau.item() == pytest.approx(2.0 * 0.999995**100_000, rel=1e-5)
    module.set_step(1_000_000)
    assert module(torch.zeros(1, 1, 6)).tau.item() == 0.5
    assert quantizer(temp=Constant(0.3))(torch.zeros(1, 1, 6)).tau.item() == pytest.approx(0.3)


def test_quantizer_state_dict() -> None:
    module = quantizer(temp=(2.0, 0.5, 0.99))
    module.set_step(50)
    state = module.state_dict()
    assert set(state) == {"vars", "weight_proj.weight", "weight_proj.bias", "choose.step"}
    other = quantizer(temp=(2.0, 0.5, 0.99))
    other.load_state_dict(state)
    x = torch.randn(3, 7, 6, generator=seeded())
    a, b = module(x, noise=ag.KeyedNoise(1)), other(x, noise=ag.KeyedNoise(1))
    assert torch.equal(a.x, b.x)
    assert torch.equal(a.tau, b.tau)
    assert set(quantizer(temp=1.0).state_dict()) == {"vars", "weight_proj.weight", "weight_proj.bias"}


def test_quantizer_in_bfloat16() -> None:
    module = quantizer().to(torch.bfloat16)
    x = torch.randn(3, 7, 6, generator=seeded()).to(torch.bfloat16)
    out = module(x)
    assert out.x.dtype == torch.bfloat16
    assert out.prob_perplexity.dtype == torch.float32
    out.x.float().sum().backward()
    assert bool(module.weight_proj.weight.grad.isfinite().all())


def test_quantizer_under_autocast() -> None:
    module = quantizer()
    with torch.autocast("cpu", torch.bfloat16):
        out = module(torch.randn(3, 7, 6, generator=seeded()))
    (out.x.float().sum() + out.prob_perplexity).backward()
    assert bool(module.vars.grad.isfinite().all())


@pytest.mark.parametrize("training", [False, True])
def test_quantizer_compiles_as_one_graph(training: bool) -> None:
    torch._dynamo.reset()
    module = quantizer().train(training)
    x = torch.randn(3, 7, 6, generator=seeded())
    mask = torch.arange(7).expand(3, 7) < 4
    noise = ag.gumbel((3, 7, 2, 5), generator=seeded(1))
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for ours, reference in zip(compiled(x, mask, noise=noise), module(x, mask, noise=noise), strict=True):
        torch.testing.assert_close(ours, reference)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vq_dim": 7}, "vq_dim must be a multiple of groups, 2.*the next multiple is 8"),
        ({"num_vars": 0}, "num_vars must be at least 1, but it is 0"),
        ({"groups": 0}, "groups must be at least 1"),
        ({"weight_proj_depth": 0}, "weight_proj_depth must be at least 1"),
        ({"temp": (2.0, 0.5)}, "temp must be .start, floor, decay., but it has 2 numbers"),
        ({"temp": -1.0}, "tau must be finite and at least 0"),
    ],
)
def test_bad_settings(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantizer(**changes)


def test_bad_input() -> None:
    module = quantizer()
    x = torch.zeros(2, 3, 6)
    with pytest.raises(ValueError, match=r"x must have the shape \(\*batch, time, dim\) with dim = 6, but it has 5"):
        module(torch.zeros(2, 3, 5))
    with pytest.raises(ValueError, match=r"\(\*batch, dim, time\)"):
        quantizer(time_first=False)(x)
    with pytest.raises(TypeError, match="mask must be a bool tensor"):
        module(x, torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"mask must have one entry per frame, the shape \(2, 3\)"):
        module(x, torch.ones(3, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="mask must let at least one frame count"):
        module(x, torch.zeros(2, 3, dtype=torch.bool))


# --- fairseq -----------------------------------------------------------------------------------------------------


class Fairseq(nn.Module):
    """The parameters of fairseq's GumbelVectorQuantizer, under its names, and what it does in evaluation."""

    def __init__(
        self, dim: int, num_vars: int, groups: int, combine: bool, vq_dim: int, depth: int, factor: int
    ) -> None:
        super().__init__()
        self.groups, self.num_vars, self.combine = groups, num_vars, combine
        self.vars = nn.Parameter(torch.rand(1, num_vars * (1 if combine else groups), vq_dim // groups))
        inner = dim * factor
        if depth > 1:
            self.weight_proj = nn.Sequential(
                *(nn.Sequential(nn.Linear(dim if i == 0 else inner, inner), nn.GELU()) for i in range(depth - 1)),
                nn.Linear(inner, groups * num_vars),
            )
        else:
            self.weight_proj = nn.Linear(dim, groups * num_vars)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, _ = x.shape
        logits = self.weight_proj(x.reshape(batch * time, -1)).view(batch * time * self.groups, -1)
        hard = torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0).view(batch * time, -1)
        codes = self.vars.repeat(1, self.groups, 1) if self.combine else self.vars
        chosen = (hard.unsqueeze(-1) * codes).view(batch * time, self.groups, self.num_vars, -1).sum(-2)
        return chosen.view(batch, time, -1)


@pytest.mark.parametrize("temp", [(2.0, 0.5, 0.999), 0.7])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("combine", [False, True])
def test_loads_a_state_dict_of_fairseq(combine: bool, depth: int, temp: object) -> None:
    theirs = Fairseq(6, 5, 2, combine, 8, depth, 3)
    ours = GumbelVectorQuantizer(6, 5, temp, 2, combine, 8, weight_proj_depth=depth, weight_proj_factor=3)  # type: ignore[arg-type]
    ours.set_step(7)
    tau = ours.choose.tau.clone()
    whole = nn.ModuleDict({"quantizer": ours})
    state = nn.ModuleDict({"quantizer": theirs}).state_dict()
    names = set(state)
    whole.load_state_dict(state)
    assert set(state) == names
    assert torch.equal(ours.choose.tau, tau)
    x = torch.randn(3, 4, 6, generator=seeded())
    torch.testing.assert_close(ours.eval()(x).x, theirs(x))
    assert names == {name for name in whole.state_dict() if "choose" not in name}
    with pytest.raises(RuntimeError, match="Missing key"):
        ours.load_state_dict({})
