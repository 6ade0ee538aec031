"""The modules: that they call the functions they stand for, and what only they hold (temperature, codebook, gates)."""

from __future__ import annotations

import copy
import math
import pickle
import warnings

import pytest
import torch
from torch import Tensor, nn

import argumbel as ag
from argumbel.distributions import HardConcrete
from argumbel.nn import GumbelSoftmax, GumbelVectorQuantizer, HardConcreteGate, set_step
from argumbel.schedules import Constant, Exponential

LOGITS = torch.tensor([[0.3, -1.0, 2.0, 0.0], [1.5, 1.4, -3.0, 0.2], [0.0, 0.1, 0.2, 0.3]])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- GumbelSoftmax ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("dim", [0, -1])
def test_training_is_the_function(hard: bool, dim: int) -> None:
    layer = GumbelSoftmax(0.7, hard, dim)
    noise = ag.gumbel(LOGITS.shape, generator=seeded())
    assert torch.equal(layer(LOGITS, noise=noise), ag.gumbel_softmax(LOGITS, 0.7, hard, dim=dim, noise=noise))
    drawn = ag.gumbel_softmax(LOGITS, 0.7, hard, dim=dim, generator=seeded(5))
    assert torch.equal(layer(LOGITS, generator=seeded(5)), drawn)
    keyed = ag.KeyedNoise(3)
    assert torch.equal(layer(LOGITS, noise=keyed), ag.gumbel_softmax(LOGITS, 0.7, hard, dim=dim, noise=keyed))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_evaluation_is_the_argmax(dtype: torch.dtype) -> None:
    layer = GumbelSoftmax(0.7).eval()
    logits = LOGITS.to(dtype)
    y = layer(logits)
    assert y.dtype == dtype
    assert torch.equal(y, nn.functional.one_hot(LOGITS.argmax(-1), 4).to(dtype))
    assert torch.equal(y, layer(logits, noise=ag.KeyedNoise(1), generator=None))
    assert torch.equal(layer(logits, torch.tensor([True, True, False, True])).argmax(-1), torch.tensor([0, 0, 3]))


def test_evaluation_has_the_gradient_of_the_softmax() -> None:
    weights = torch.randn(4, generator=seeded())
    logits = LOGITS.clone().requires_grad_()
    (GumbelSoftmax(0.7).eval()(logits) * weights).sum().backward()
    expected = LOGITS.clone().requires_grad_()
    (torch.softmax(expected / 0.7, -1) * weights).sum().backward()
    torch.testing.assert_close(logits.grad, expected.grad)


def test_training_does_not_move_the_global_generator_in_evaluation() -> None:
    layer = GumbelSoftmax().eval()
    before = torch.get_rng_state()
    layer(LOGITS)
    assert torch.equal(before, torch.get_rng_state())


def test_parameter_temperature_is_trained_and_saved() -> None:
    layer = GumbelSoftmax(nn.Parameter(torch.tensor(0.8)))
    (layer(LOGITS, generator=seeded()) ** 2).sum().backward()
    assert layer.tau.grad is not None
    assert float(layer.tau.grad) != 0.0
    assert list(layer.state_dict()) == ["tau"]


def test_tensor_temperature_broadcasts() -> None:
    tau = torch.tensor([[0.1], [1.0], [10.0]])
    noise = ag.KeyedNoise(2)
    assert torch.equal(GumbelSoftmax(tau)(LOGITS, noise=noise), ag.gumbel_softmax(LOGITS, tau, noise=noise))


def test_constant_temperature_is_configuration_not_state() -> None:
    layer = GumbelSoftmax(0.5)
    assert layer.state_dict() == {}
    layer.load_state_dict({})
    set_step(layer, 1000)
    assert layer.tau.item() == 0.5


def test_schedule_follows_set_step_and_survives_a_checkpoint() -> None:
    schedule = Exponential(1.0, 1e-3, floor=0.2)
    model = nn.Sequential(nn.Linear(4, 4), GumbelSoftmax(schedule))
    assert model[1].tau.item() == pytest.approx(1.0)
    set_step(model, 300)
    assert model[1].tau.item() == pytest.approx(schedule(300))
    for _ in range(3):
        model(LOGITS)  # forward passes are not steps
    assert model[1].tau.item() == pytest.approx(schedule(300))

    resumed = nn.Sequential(nn.Linear(4, 4), GumbelSoftmax(schedule))
    resumed.load_state_dict(model.state_dict())
    assert int(resumed[1].step) == 300
    assert torch.equal(resumed[1].tau, model[1].tau)
    noise = ag.KeyedNoise(9)
    assert torch.equal(resumed[1](LOGITS, noise=noise), model[1](LOGITS, noise=noise))


def test_schedule_survives_deepcopy_and_pickle() -> None:
    layer = GumbelSoftmax(Exponential(1.0, 1e-3))
    layer.set_step(500)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other.tau, layer.tau)
        other.set_step(0)
        assert other.tau.item() == 1.0
    assert layer.tau.item() == pytest.approx(math.exp(-0.5))


def test_set_step_finds_nested_modules() -> None:
    model = nn.ModuleDict({"a": GumbelSoftmax(Exponential(1.0, 0.1)), "q": quantizer(temp=(2.0, 0.5, 0.9))})
    set_step(model, 3)
    assert model["a"].tau.item() == pytest.approx(math.exp(-0.3))
    assert model["q"].choose.tau.item() == pytest.approx(2.0 * 0.9**3)
    set_step(model, 10_000)
    assert model["q"].choose.tau.item() == 0.5


@pytest.mark.parametrize("hard", [False, True])
def test_compiles_as_one_graph_that_a_schedule_does_not_recompile(hard: bool) -> None:
    torch._dynamo.reset()
    layer = GumbelSoftmax(Exponential(1.0, 0.1), hard=hard)
    graphs = []

    def backend(graph: torch.fx.GraphModule, _inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    noise = ag.gumbel(LOGITS.shape, generator=seeded())
    for step in range(12):
        set_step(layer, step)
        torch.testing.assert_close(compiled(LOGITS, noise=noise), layer(LOGITS, noise=noise))
    assert len(graphs) == 1
    layer.eval()
    assert torch.equal(compiled(LOGITS), layer(LOGITS))


def test_compiles_with_its_own_noise() -> None:
    torch._dynamo.reset()
    layer = GumbelSoftmax(0.5, hard=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    y = compiled(torch.zeros(500, 4))
    assert torch.equal(y.sum(-1), torch.ones(500))
    assert not torch.equal(y, compiled(torch.zeros(500, 4)))


@pytest.mark.parametrize(
    ("tau", "error"), [(-1.0, ValueError), (math.nan, ValueError), (math.inf, ValueError), ("1", TypeError),
                       (True, TypeError), (None, TypeError), (lambda step: -1.0, ValueError)]
)  # fmt: skip
def test_bad_temperature(tau: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="tau must be"):
        GumbelSoftmax(tau)  # type: ignore[arg-type]


def test_a_bad_step_leaves_the_temperature_as_it_was() -> None:
    layer = GumbelSoftmax(lambda step: 1.0 - step)
    with pytest.raises(ValueError, match="tau must be"):
        layer.set_step(2)
    assert (int(layer.step), layer.tau.item()) == (0, 1.0)


# --- GumbelVectorQuantizer -------------------------------------------------------------------------------------------


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


# --- HardConcreteGate ------------------------------------------------------------------------------------------------


def test_gate_starts_at_keep() -> None:
    gate = HardConcreteGate(10_000, keep=0.8)
    # 1e4 draws of N(logit 0.8, 0.01): the mean has standard deviation 1e-4; 6 of them fail once in 5e8.
    assert abs(gate.log_alpha.mean().item() - math.log(4)) < 6e-4
    assert abs(gate.log_alpha.std().item() / 0.01 - 1) < 6 / math.sqrt(2e4)


def test_training_gates_are_hard_concrete() -> None:
    gate = HardConcreteGate((3, 5), temperature=0.5)
    z = gate(generator=seeded(2))
    law = HardConcrete(0.5, logits=gate.log_alpha, gamma=-0.1, zeta=1.1)
    assert torch.equal(z, law.rsample(generator=seeded(2)))
    assert z.shape == (3, 5)
    many = gate((200,), generator=seeded(3))
    assert many.shape == (200, 3, 5)
    assert bool((many == 0).any())
    assert bool((many == 1).any())
    assert bool(((many > 0) & (many < 1)).any())
    assert bool(((many >= 0) & (many <= 1)).all())
    many.sum().backward()
    assert bool((gate.log_alpha.grad > 0).all())


def test_l0_is_the_expected_number_of_open_gates() -> None:
    gate = HardConcreteGate(4, temperature=2 / 3)
    with torch.no_grad():
        gate.log_alpha.copy_(torch.tensor([-4.0, -1.0, 0.0, 3.0]))
    expected = sum(1 / (1 + math.exp(-a + 2 / 3 * math.log(0.1 / 1.1))) for a in (-4.0, -1.0, 0.0, 3.0))
    assert gate.l0().shape == ()
    assert gate.l0().item() == pytest.approx(expected, rel=1e-5)
    # Each count is a sum of 4 independent indicators, of variance at most 1; 40,000 of them, 6 standard deviations.
    counted = (gate((40_000,), generator=seeded()) != 0).sum(-1).double().mean().item()
    assert abs(counted - expected) < 6 / math.sqrt(40_000)
    gate.l0().backward()
    assert bool((gate.log_alpha.grad > 0).all())


def test_evaluation_gates_are_deterministic() -> None:
    gate = HardConcreteGate(3).eval()
    with torch.no_grad():
        gate.log_alpha.copy_(torch.tensor([-5.0, 0.4, 5.0]))
    middle = 1.2 / (1 + math.exp(-0.4)) - 0.1
    torch.testing.assert_close(gate(), torch.tensor([0.0, middle, 1.0]))
    assert torch.equal(gate(), gate())
    assert torch.equal(gate((2,)), gate().expand(2, 3))
    gate().sum().backward()
    assert gate.log_alpha.grad[1] > 0


def test_the_penalty_closes_gates_that_do_nothing() -> None:
    """x[0] is the target and x[1] is noise: the gate of the first stays open, that of the second shuts."""
    g = seeded()
    torch.manual_seed(0)
    gate = HardConcreteGate(2)
    optimiser = torch.optim.Adam(gate.parameters(), lr=0.1)
    for _ in range(150):
        x = torch.randn(64, 2, generator=g)
        z = gate((64,), generator=g)
        loss = ((x * z).sum(-1) - x[:, 0]).square().mean() + 0.05 * gate.l0()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert gate.eval()().tolist() == [1.0, 0.0]


def test_gate_state_dict_and_repr() -> None:
    gate = HardConcreteGate((2, 3))
    other = HardConcreteGate((2, 3))
    other.load_state_dict(gate.state_dict())
    assert torch.equal(other.log_alpha, gate.log_alpha)
    assert list(gate.state_dict()) == ["log_alpha"]
    assert repr(gate) == "HardConcreteGate((2, 3), temperature=0.666667, gamma=-0.1, zeta=1.1)"
    assert repr(GumbelSoftmax(0.5)) == "GumbelSoftmax(tau=0.5, hard=False, dim=-1)"
    assert "num_vars=5" in repr(quantizer())


def test_bad_gates() -> None:
    with pytest.raises(ValueError, match="keep must lie strictly between 0 and 1, but it is 1"):
        HardConcreteGate(3, keep=1.0)
    with pytest.raises(ValueError, match="temperature"):
        HardConcreteGate(3, temperature=-1.0)
    with pytest.raises(ValueError, match="gamma"):
        HardConcreteGate(3, gamma=0.5)


# --- modules that are made without values ------------------------------------------------------------------------


def holding(tau: float) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), GumbelSoftmax(tau))


MAKE = {
    "a number": lambda: holding(0.3),
    "a schedule": lambda: holding(Exponential(0.9, 0.1)),
    "a quantizer": lambda: quantizer(temp=(2.0, 0.5, 0.9)),
    "a parameter": lambda: holding(nn.Parameter(torch.tensor(0.3))),
}


def tau_of(model: nn.Module) -> Tensor:
    (tau,) = [m.tau for m in model.modules() if isinstance(m, GumbelSoftmax)]
    return tau


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("step", [0, 7])
def test_from_the_meta_device(name: str, step: int) -> None:
    """Made on meta, given memory, loaded: the model that was saved. Memory without values is NaN here."""
    trained = MAKE[name]()
    set_step(trained, step)
    for assign in (False, True):
        with torch.device("meta"):
            model = MAKE[name]()
        if not assign:
            model.to_empty(device="cpu")
        model.load_state_dict(trained.state_dict(), assign=assign)
        assert tau_of(model).device.type == "cpu"
        assert torch.equal(tau_of(model), tau_of(trained))
        set_step(model, 9)
        set_step(trained, 9)
        assert torch.equal(tau_of(model), tau_of(trained))
        set_step(trained, step)


def test_buffers_survive_without_a_state_dict() -> None:
    with torch.device("meta"):
        model = MAKE["a schedule"]()
        set_step(model, 7)
    model.to_empty(device="cpu")
    assert (int(model[1].step), tau_of(model).item()) == (7, pytest.approx(0.9 * math.exp(-0.7)))
    model.to_empty(device="cpu")
    assert int(model[1].step) == 7
    model[1].reset_parameters()
    assert (int(model[1].step), tau_of(model).item()) == (0, pytest.approx(0.9))
    model.to("meta")
    model.to_empty(device="cpu")
    assert int(model[1].step) == 0
    own = GumbelSoftmax(torch.tensor([[0.5], [2.0]]))
    own.to_empty(device="cpu")
    assert own.tau.tolist() == [[0.5], [2.0]]


def test_moves_keep_values_that_were_copied_in() -> None:
    """As a running average of models copies its buffers."""
    model, average = GumbelSoftmax(Exponential(1.0, 0.1)), GumbelSoftmax(Exponential(1.0, 0.1))
    set_step(model, 5)
    for mine, theirs in zip(average.buffers(), model.buffers(), strict=True):
        mine.copy_(theirs)
    average.double()
    assert average.tau.dtype == torch.float64
    assert average.tau == model.tau
    assert int(average.step) == 5


def test_a_cast_rounds_as_a_cast_does() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert torch.equal(GumbelSoftmax(0.3).to(dtype).tau, torch.tensor(0.3).to(dtype))
    assert GumbelSoftmax(0.3).half().float().tau == torch.tensor(0.3).half().float()


def test_parameters_are_reset() -> None:
    layer = GumbelSoftmax(nn.Parameter(torch.tensor(0.3)))
    with torch.no_grad():
        layer.tau.fill_(9.0)
    layer.reset_parameters()
    assert layer.tau == torch.tensor(0.3)
    with torch.device("meta"):
        layer = GumbelSoftmax(nn.Parameter(torch.tensor(0.3)))
    with pytest.raises(ValueError, match="tau must have a value to be reset to"):
        layer.to_empty(device="cpu").reset_parameters()


def test_a_meta_model_loads_nothing_and_stays_meta() -> None:
    with torch.device("meta"):
        model = MAKE["a schedule"]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.load_state_dict(MAKE["a schedule"]().state_dict())
    assert tau_of(model).is_meta


def test_made_in_inference_mode_trained_outside() -> None:
    with torch.inference_mode():
        layer = GumbelSoftmax(Exponential(1.0, 0.1))
    set_step(layer, 3)
    x = torch.zeros(2, 600, requires_grad=True)
    layer(x)[:, 0].sum().backward()
    assert x.grad is not None


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
