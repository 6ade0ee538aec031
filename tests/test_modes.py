"""Every way in which PyTorch may call: other default devices, tensors without memory, tracing, batched gradients."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

import argumbel as ag
from argumbel import kernels
from argumbel.kernels.cpu import _openmp_paths
from tests.versions import newer_compiler

KEY = ag.KeyedNoise(7)

# Of logits of shape (*batch, 5) and the keywords of randomness.
SAMPLERS: dict[str, Callable[..., Any]] = {
    "categorical": lambda x, **k: ag.categorical(x, **k),
    "gumbel_max": lambda x, **k: ag.gumbel_max(x, **k).indices,
    "gumbel_topk": lambda x, **k: ag.gumbel_topk(x, 2, **k).indices,
    "sample_without_replacement": lambda x, **k: ag.sample_without_replacement(x, 2, **k).indices,
    "gumbel_softmax": lambda x, **k: ag.gumbel_softmax(x, 0.7, **k),
    "hard": lambda x, **k: ag.gumbel_softmax(x, 0.7, hard=True, **k),
    "gumbel_softmax dim 0": lambda x, **k: ag.gumbel_softmax(x, 0.7, dim=0, **k),
    "gumbel_sigmoid": lambda x, **k: ag.gumbel_sigmoid(x, 0.7, **k),
    "posterior_gumbel": lambda x, **k: ag.posterior_gumbel(x, torch.zeros(x.shape[:-1], dtype=torch.int64), **k),
    "linear_categorical": lambda x, **k: ag.linear_categorical(x, torch.eye(5), **k),
    "linear_gumbel_max": lambda x, **k: ag.linear_gumbel_max(x, torch.eye(5), **k).indices,
    "straight_through": lambda x, **k: ag.straight_through(x, **k),
}
KEYED = sorted(set(SAMPLERS) - {"categorical", "sample_without_replacement", "linear_categorical"})
DIFFERENTIABLE: dict[str, Callable[[Tensor], Tensor]] = {
    "gumbel_softmax": lambda x: ag.gumbel_softmax(x, 0.7, noise=KEY),
    "hard": lambda x: ag.gumbel_softmax(x, 0.7, hard=True, noise=KEY),
    "gumbel_softmax dim 0": lambda x: ag.gumbel_softmax(x, 0.7, dim=0, noise=KEY),
    "gumbel_sigmoid": lambda x: ag.gumbel_sigmoid(x, 0.7, noise=KEY),
    "gumbel_max": lambda x: ag.gumbel_max(x, noise=KEY).values,
    "gumbel_topk": lambda x: ag.gumbel_topk(x, 3, noise=KEY).values,
    "posterior_gumbel": lambda x: ag.posterior_gumbel(x, torch.zeros(x.shape[:-1], dtype=torch.int64), noise=KEY),
    "straight_through": lambda x: ag.straight_through(x, noise=KEY),
    "relaxed_topk": lambda x: ag.relaxed_topk(x, 3, noise=KEY),
    "relaxed_topk of many": lambda x: ag.relaxed_topk(x, 40 if x.shape[-1] > 40 else 4, noise=KEY),
    "relaxed_topk successive": lambda x: ag.relaxed_topk(x, 3, method="successive", noise=KEY),
    "linear_gumbel_max": lambda x: ag.linear_gumbel_max(x, torch.ones(4, x.shape[-1]), noise=KEY).values,
}


@contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)  # not "cpu", which would leave a mode behind


@pytest.mark.parametrize("name", SAMPLERS)
def test_another_default_device_changes_nothing(name: str) -> None:
    x = torch.randn(6, 5)
    torch.manual_seed(3)
    expected = SAMPLERS[name](x)
    eye = torch.eye
    with default_device("meta"):
        torch.manual_seed(3)
        index = torch.zeros(6, dtype=torch.int64, device="cpu")
        functions = {
            "posterior_gumbel": lambda x: ag.posterior_gumbel(x, index),
            "linear_categorical": lambda x: ag.linear_categorical(x, eye(5, device="cpu")),
            "linear_gumbel_max": lambda x: ag.linear_gumbel_max(x, eye(5, device="cpu")).indices,
        }
        got = functions.get(name, SAMPLERS[name])(x)
    assert torch.equal(got, expected)


def test_noise_on_another_device_than_the_default() -> None:
    expected = KEY.gumbel((3, 4))
    ids = ag.KeyedNoise(7, rows=[0, 1, 2], items=[0, 1, 2, 3])
    with default_device("meta"):
        assert torch.equal(KEY.gumbel((3, 4), device="cpu"), expected)
        assert torch.equal(ids.gumbel((3, 4), device="cpu"), expected)
        fresh = ag.KeyedNoise(7, rows=[0, 1, 2], items=[0, 1, 2, 3])
        assert torch.equal(fresh.gumbel((3, 4), device="cpu"), expected)
        assert ag.gumbel((3,), device="cpu").device.type == "cpu"
        assert ag.gumbel((3,)).device.type == "meta"


@pytest.mark.parametrize("name", KEYED)
def test_logits_whose_memory_does_not_hold_their_values(name: str) -> None:
    function = SAMPLERS[name]
    x = torch.randn(6, 5)
    torch.testing.assert_close(function(torch._neg_view(-x), noise=KEY), function(x, noise=KEY))
    zeros = torch._efficientzerotensor((6, 5))
    torch.testing.assert_close(function(zeros, noise=KEY), function(torch.zeros(6, 5), noise=KEY))
    imaginary = torch.complex(torch.zeros(6, 5), x).conj().imag  # a negative view as users come by one
    assert imaginary.is_neg()
    torch.testing.assert_close(function(imaginary, noise=KEY), function(-x, noise=KEY))


@pytest.mark.parametrize("name", ["categorical", "sample_without_replacement", "linear_categorical"])
def test_law_functions_of_such_logits(name: str) -> None:
    x = torch.tensor([0.0, 60.0, -60.0, -60.0, 0.0]).expand(6, 5)  # item 1 is certain, up to e^-60
    drawn = SAMPLERS[name](torch._neg_view(-x))
    assert bool(((drawn if drawn.ndim == 1 else drawn[:, 0]) == 1).all())
    assert SAMPLERS[name](torch._efficientzerotensor((6, 5))).shape[0] == 6


@pytest.mark.parametrize("name", DIFFERENTIABLE)
@pytest.mark.parametrize("n", [5, 700])
def test_gradients_that_are_zero_tensors(name: str, n: int) -> None:
    x = torch.randn(6, n, requires_grad=True)
    torch.sgn(DIFFERENTIABLE[name](x)).sum().backward()  # sgn has a zero tensor for its gradient
    assert x.grad is not None
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
@pytest.mark.parametrize("n", [5, 700])
def test_batched_gradients(name: str, n: int) -> None:
    x = torch.randn(3, n, requires_grad=True)
    y = DIFFERENTIABLE[name](x)
    directions = torch.randn(4, *y.shape)
    (batched,) = torch.autograd.grad(y, x, directions, is_grads_batched=True, retain_graph=True)
    for direction, found in zip(directions, batched, strict=True):
        (expected,) = torch.autograd.grad(y, x, direction, retain_graph=True)
        torch.testing.assert_close(found, expected)
    pick = torch.randn(2, y.numel())
    vectorized = torch.autograd.functional.jacobian(
        lambda v: pick @ DIFFERENTIABLE[name](v).flatten(), x.detach(), vectorize=True
    )
    reverse = torch.func.jacrev(lambda v: pick @ DIFFERENTIABLE[name](v).flatten())(x.detach())
    torch.testing.assert_close(vectorized, reverse)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_jit_trace_draws_afresh_for_any_batch(name: str) -> None:
    if name == "posterior_gumbel":
        pytest.skip("the shape of its index is a part of the traced function")
    function = SAMPLERS[name]
    x = torch.randn(40, 5)
    traced = torch.jit.trace(function, x, check_trace=False)
    torch.manual_seed(1)
    first, second = traced(x), traced(x)
    torch.manual_seed(1)
    assert torch.equal(first, function(x))
    assert torch.equal(second, function(x))
    assert not torch.equal(first, second)
    if name != "gumbel_softmax dim 0":  # rows are the batch
        assert traced(torch.randn(7, 5)).shape == (7, *first.shape[1:])


def test_fx_records_one_node() -> None:
    class Model(torch.nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return ag.gumbel_softmax(2 * x, tau=0.5), ag.gumbel_topk(x, 2).indices

    model = Model()
    graph = torch.fx.symbolic_trace(model)
    assert [node.name for node in graph.graph.nodes][2] == "gumbel_softmax"
    x = torch.randn(3, 5)
    for call in model, graph:
        torch.manual_seed(2)
        y, first = call(x)
        torch.manual_seed(2)
        assert torch.equal(y, ag.gumbel_softmax(2 * x, tau=0.5))
        assert torch.equal(first, ag.gumbel_topk(x, 2).indices)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("backend", ["eager", "inductor"])
@pytest.mark.parametrize("name", ["categorical", "gumbel_max", "gumbel_softmax", "posterior_gumbel"])
def test_compiled_with_a_generator(backend: str, name: str) -> None:
    """Graphs may break where the seed is drawn; the results must not."""
    function = SAMPLERS[name]
    compiled = torch.compile(lambda x, g: function(x, generator=g), backend=backend)
    x, generator = torch.randn(4, 5), torch.Generator().manual_seed(5)
    results = [compiled(x, generator) for _ in range(2)]
    generator.manual_seed(5)
    for result in results:
        torch.testing.assert_close(result, function(x, generator=generator))


@pytest.mark.parametrize("name", ["categorical", "gumbel_topk", "sample_without_replacement", "gumbel_softmax"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_number_of_items_in_one_graph(name: str, dtype: torch.dtype) -> None:
    class Model(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return SAMPLERS[name](x)

    torch._dynamo.reset()
    compiled = torch.compile(SAMPLERS[name], fullgraph=True, dynamic=True, backend="aot_eager")
    sizes = {0: torch.export.Dim("batch", min=2, max=5000), 1: torch.export.Dim("items", min=2, max=5000)}
    exported = torch.export.export(Model(), (torch.zeros(4, 6, dtype=dtype),), dynamic_shapes={"x": sizes}).module()
    for batch, n in ((4, 6), (5, 9), (3, 1500)):
        x = torch.randn(batch, n, dtype=dtype)
        results = []
        for function in compiled, exported, SAMPLERS[name]:
            torch.manual_seed(n)
            results.append(function(x))
        assert torch.equal(results[0], results[2])
        assert torch.equal(results[1], results[2])


@newer_compiler
def test_compiled_with_a_generator_elsewhere() -> None:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(4, 5)
    calls: dict[str, Callable[[], Any]] = {
        "closure": lambda: ag.categorical(x, generator=generator),
        "noise": lambda: ag.KeyedNoise.from_generator(generator).gumbel((3,)),
        "distribution": lambda: ag.distributions.RelaxedOneHotCategorical(0.5, logits=x).rsample(generator=generator),
        "estimator": lambda: ag.estimators.reinforce(lambda z: z.sum(-1), x, generator=generator),
        "module": lambda: ag.nn.GumbelSoftmax(0.5)(x, generator=generator),
    }
    for call in calls.values():
        result = torch.compile(call, backend="eager")()
        generator.manual_seed(5)
        torch.testing.assert_close(result, call())
        generator.manual_seed(5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_fake_tensors(name: str) -> None:
    shape = SAMPLERS[name](torch.zeros(6, 5)).shape
    with FakeTensorMode():
        assert SAMPLERS[name](torch.zeros(6, 5)).shape == shape
        assert KEY.gumbel((3, 4)).shape == (3, 4)
    assert bool(SAMPLERS[name](torch.zeros(6, 5)).isfinite().all())  # nothing of the pretence stays behind


def test_a_temperature_first_seen_where_nothing_is_real() -> None:
    with FakeTensorMode():
        ag.gumbel_softmax(torch.zeros(2, 3), 0.7071)
    ag.gumbel_softmax(torch.zeros(2, 3, device="meta"), 0.7072)
    with default_device("meta"):
        ag.gumbel_softmax(torch.zeros(2, 3, device="cpu"), 0.7073)
    with torch.inference_mode():
        ag.gumbel_softmax(torch.zeros(2, 3), 0.7074)
    for tau in 0.7071, 0.7072, 0.7073, 0.7074:
        x = torch.zeros(2, 3, requires_grad=True)
        y = ag.gumbel_softmax(x, tau, noise=KEY)
        y[:, 0].sum().backward()
        with kernels.use("reference"):
            torch.testing.assert_close(ag.gumbel_softmax(x, tau, noise=KEY), y)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_results_are_contiguous_as_those_of_torch() -> None:
    x = torch.randn(2, 8, 4, 5)
    for y in (
        ag.gumbel_softmax(x, dim=1),
        ag.gumbel_softmax(x, dim=1, hard=True),
        ag.relax.log_gumbel_softmax(x, dim=1),
        ag.relaxed_topk(x, 2, dim=1),
        ag.straight_through(x, dim=1),
        *ag.gumbel_topk(x, 3, dim=1),
        *ag.sample_without_replacement(x, 3, dim=1),
        ag.posterior_gumbel(x, torch.zeros(2, 4, 5, dtype=torch.int64), dim=1),
        ag.inclusion_probs(x, 3, dim=1),
        torch.compile(lambda x: ag.gumbel_softmax(x, dim=1), fullgraph=True)(x),
    ):
        y.view(2, -1)


def test_numbers_of_numpy() -> None:
    x = torch.randn(6, 5)
    tau = np.maximum(np.exp(-3e-5 * 1000), 0.5)
    assert torch.equal(ag.gumbel_softmax(x, tau, noise=KEY), ag.gumbel_softmax(x, float(tau), noise=KEY))
    assert torch.equal(ag.gumbel_softmax(x, np.float32(0.5), noise=KEY), ag.gumbel_softmax(x, 0.5, noise=KEY))
    assert torch.equal(ag.gumbel_sigmoid(x, np.float32(0.5), noise=KEY), ag.gumbel_sigmoid(x, 0.5, noise=KEY))
    assert torch.equal(ag.gumbel_topk(x, np.int64(2), noise=KEY).indices, ag.gumbel_topk(x, 2, noise=KEY).indices)
    assert torch.equal(ag.KeyedNoise(np.int64(7)).gumbel((3, 4)), KEY.gumbel((3, 4)))
    assert torch.equal(ag.KeyedNoise(np.uint64(2**64 - 1)).gumbel(4), ag.KeyedNoise(-1).gumbel(4))
    assert ag.gumbel(3).shape == ag.gumbel(np.int64(3)).shape == (3,)
    assert ag.gumbel((np.int32(2), 3)).shape == (2, 3)
    assert ag.categorical(x, 4).shape == ag.categorical(x, np.int64(4)).shape == (4, 6)


def test_what_is_no_plain_tensor_is_refused_in_words() -> None:
    x = torch.zeros(3, 3)
    for logits in x.to_sparse(), x.to_mkldnn():
        with pytest.raises(TypeError, match="logits must be a dense tensor, but the layout is"):
            ag.gumbel_max(logits)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nested tensors are a prototype
        nested = torch.nested.nested_tensor([torch.ones(2)])
    with pytest.raises(TypeError, match="logits must be a dense tensor, but it is nested"):
        ag.gumbel_max(nested)
    for call in (lambda g: ag.categorical(x, generator=g), lambda g: ag.gumbel(3, generator=g)):
        with pytest.raises(TypeError, match=r"generator must be a torch.Generator, but it is a int"):
            call(5)
    with pytest.raises(ValueError, match="items must be integers of 64 bits"):
        ag.KeyedNoise(1, items=[2**63 + 5])
    with pytest.raises(TypeError, match="shape must be an integer or a sequence of integers, but it is a str"):
        ag.gumbel("3")  # type: ignore[arg-type]


@pytest.mark.parametrize("function", [ag.gumbel_topk, ag.sample_without_replacement])
def test_no_items_of_bad_logits(function: Callable[..., Any]) -> None:
    for bad, words in (torch.nan, "must not be NaN"), (torch.inf, r"must not be \+inf"):
        with pytest.raises(ValueError, match=words):
            function(torch.tensor([bad, 1.0]), 0)
    assert function(torch.full((2, 3), -torch.inf), 0).indices.shape == (2, 0)  # the empty set is allowed


@pytest.mark.parametrize("tau", [1e-3, 0.5, 1.0, 1e6, 1e300, torch.inf])
@pytest.mark.parametrize("hard", [False, True])
def test_small_rows_with_a_gradient_at_the_extremes(tau: float, hard: bool) -> None:
    top = torch.finfo(torch.float32).max
    for row in ([0.0, 1.0, -torch.inf], [top, top, -top], [-top, -top, -top], [1e9, 0.0, -1e9], [300.0, 299.0, 0.0]):
        x = torch.tensor([row], requires_grad=True)
        y = ag.gumbel_softmax(x, tau, hard=hard, noise=KEY)
        torch.testing.assert_close(y.detach(), ag.gumbel_softmax(x.detach(), tau, hard=hard, noise=KEY))
        y[0, 0].backward()
        assert x.grad is not None
        assert bool(y.isfinite().all())
        assert bool(x.grad.isfinite().all())


def run_script(script: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
@pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="the sanitizer itself needs the memory")
@pytest.mark.parametrize("threads", ["1", "2"])
def test_running_out_of_memory_is_an_error(threads: str) -> None:
    script = """
import resource, sys, torch, argumbel as ag
torch.set_num_threads(int(sys.argv[1]))
x = torch.randn(3_000_000)
ag.categorical(x, (10,)), ag.gumbel_topk(torch.zeros(8, 20), 3)  # threads and pages that are needed anyway
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (16 << 20), -1))
for call in (lambda: ag.categorical(x, 700_000), lambda: ag.gumbel_topk(x.expand(4, -1), 400_000)):
    try:
        call()
    except (MemoryError, RuntimeError) as error:
        print(type(error).__name__)
print("alive")
"""
    assert run_script(script, threads).splitlines()[-1] == "alive"


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal as Unix does")
@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_long_draw_hears_control_c(threads: str) -> None:
    """The draw would take minutes; the signal comes after half a second."""
    script = """
import signal, sys, time, torch, argumbel as ag
torch.set_num_threads(int(sys.argv[1]))
ag.gumbel_max(torch.zeros(10, 10))
signal.setitimer(signal.ITIMER_REAL, 0.5)
signal.signal(signal.SIGALRM, signal.default_int_handler)
try:
    ag.gumbel_max(torch.zeros(30_000_000).expand(20_000, -1))
except KeyboardInterrupt:
    print("interrupted")
print(ag.gumbel_max(torch.tensor([0.0, 99.0])).indices.item())
"""
    assert run_script(script, threads).split() == ["interrupted", "1"]


def test_openmp_is_found_in_a_folder_with_spaces() -> None:
    folder = "/home/me/my env/site-packages/torch"
    maps = [
        f"7f00-7f01 r-xp 00000000 08:02 173 {folder}/lib/libgomp-a34b.so.1\n",
        f"7f00-7f01 r-xp 00000000 08:02 174 {folder}.libs/libgomp-1.so\n",
        "7f01-7f02 r-xp 00000000 08:02 175 /home/me/torch/site-packages/scikit_learn.libs/libgomp-d22c.so.1\n",
        "7f02-7f03 rw-p 00000000 00:00 0 \n",
        f"7f03-7f04 r-xp 00000000 08:02 176 {folder}/lib/libtorch.so\n",
    ]
    assert _openmp_paths(maps, folder) == [f"{folder}.libs/libgomp-1.so", f"{folder}/lib/libgomp-a34b.so.1"]
