"""Compiled code, machine code, and what holds on a GPU only: no call waits for it.

Whatever the interpreter cannot say of a GPU is asked of the machine code, which needs none (``tests/ptx.py``).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import argumbel as ag

from .on_triton import MARKS, ON_GPU, exactly, head, here, there

pytest.importorskip("triton", minversion="3.6")

from argumbel.kernels import dispatch, triton

pytestmark = MARKS


# --- compiled code -----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_code_draws_what_eager_code_draws() -> None:
    x, seed = there(torch.randn(3, 40)), there(torch.tensor(5))
    hidden, weight, _ = (there(x) for x in head(torch.float32, 3, 40, 8))

    def everything(x: Tensor, seed: Tensor) -> tuple[Tensor, ...]:
        noise = ag.KeyedNoise(seed)
        y = ag.gumbel_softmax(x, 0.5, hard=True, noise=noise)
        return (
            noise.gumbel((3, 4), device=x.device),
            *ag.gumbel_max(x, noise=noise),
            *ag.gumbel_topk(x, 2, noise=noise),
            y,
            ag.gumbel_softmax(x, 0.5, noise=noise),
            ag.posterior_gumbel(x, y.argmax(-1), noise=noise),
            *ag.linear_gumbel_max(hidden, weight, temperature=0.7, noise=noise),
        )

    compiled = torch.compile(everything, fullgraph=True, backend="aot_eager")(x, seed)
    assert all(torch.equal(a, b) for a, b in zip(compiled, everything(x, seed), strict=True))

    def gradient(x: Tensor) -> Tensor:
        return ag.gumbel_softmax(x, 0.5, hard=True, noise=ag.KeyedNoise(seed)).square().sum()

    grads = []
    for f in (gradient, torch.compile(gradient, fullgraph=True, backend="aot_eager")):
        a = x.clone().requires_grad_()
        f(a).backward()
        grads.append(a.grad)
    torch.testing.assert_close(*grads)
    draw = torch.compile(lambda: ag.linear_categorical(hidden, weight), fullgraph=True, backend="aot_eager")
    draws = draw()
    assert ((draws >= 0) & (draws < 40)).all()
    draws = torch.compile(ag.categorical, fullgraph=True, backend="aot_eager")(x)
    assert ((draws >= 0) & (draws < 40)).all()
    draws = torch.compile(ag.sample_without_replacement, fullgraph=True, backend="aot_eager")(x, 7).indices
    assert all(len(set(row)) == 7 for row in draws.tolist())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "name", ["linear_gumbel_max", "linear_categorical", "posterior_gumbel", "sample_without_replacement"]
)
def test_operators_are_registered_as_torch_wants_them(name: str) -> None:
    hidden, weight, bias = (there(x) for x in head(torch.float32, 3, 40, 8))
    one, seed = there(torch.ones(1)), there(torch.tensor(1))
    arguments = {
        "linear_gumbel_max": (hidden, weight, bias, one, seed, None, None),
        "linear_categorical": (hidden, weight, bias, one, seed),
        "posterior_gumbel": (hidden, there(torch.tensor([0, 7, 2])), None, seed, None, None),
        "sample_without_replacement": (hidden, 2, seed),
    }[name]
    torch.library.opcheck(getattr(torch.ops.argumbel, name).default, arguments)


def test_transforms_run_on_the_reference() -> None:
    x = there(torch.randn(4, 6))
    noise = ag.KeyedNoise(3, rows=[0])
    one = torch.func.vmap(lambda row: ag.gumbel_max(row[None], noise=noise).indices)(x)
    assert one.shape == (4, 1)
    grad = torch.func.grad(lambda a: (ag.gumbel_softmax(a, 0.5, noise=ag.KeyedNoise(3)) ** 2).sum())(x)
    a = x.clone().requires_grad_()
    (exact,) = torch.autograd.grad((ag.gumbel_softmax(a, 0.5, noise=ag.KeyedNoise(3)) ** 2).sum(), a)
    torch.testing.assert_close(grad, exact)


def test_what_triton_lacks_runs_elsewhere() -> None:
    """float64 logits."""
    x, noise = torch.randn(3, 20, dtype=torch.float64), ag.KeyedNoise(1)
    index = torch.tensor([3, 0, 19])
    for call in (
        lambda x, _: ag.gumbel_max(x, noise=noise).indices,
        lambda x, _: ag.gumbel_topk(x, 5, noise=noise).indices,
        lambda x, index: ag.posterior_gumbel(x, index, noise=noise),
    ):
        exact = exactly(lambda: call(x, index))  # noqa: B023
        torch.testing.assert_close(here(call(there(x), there(index))), exact)
    draw = ag.sample_without_replacement(there(x), 5)
    assert all(len(set(row)) == 5 for row in draw.indices.tolist())


# --- the device --------------------------------------------------------------------------------------------------


def test_machine_code() -> None:
    """Every kernel that is launched compiles for a GPU. A number of Gumbel noise is sixteen fused multiply-adds, of
    logistic noise as many, and nothing else is fused; nothing of the noise is flushed to zero."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-m", "tests.ptx"],
        cwd=Path(__file__).parent.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = [json.loads(line) for line in run.stdout.splitlines()]
    launched = {
        f"{path.stem}.{name}"
        for path in Path(triton.__file__).parent.glob("*.py")
        for name in re.findall(r"(?<!def )\blaunch\(\s*(\w+)", path.read_text())
    }
    assert {case["kernel"] for case in found} == launched, "each kernel needs a Case in tests/ptx.py"
    assert all(case["binary"] for case in found)
    for case in found:
        if case["only_noise_fused"]:
            assert case["fused"] == 16 * case["numbers"]
            assert not case["flushing"]


def test_without_triton_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_has_triton", lambda: False)
    with pytest.warns(RuntimeWarning, match=r"argumbel finds no Triton.*: pip install triton"):
        indices = ag.gumbel_max(there(torch.zeros(3, 4)), noise=ag.KeyedNoise(1)).indices
    assert torch.equal(here(indices), exactly(lambda: ag.gumbel_max(torch.zeros(3, 4), noise=ag.KeyedNoise(1)))[1])


def test_it_is_imported_only_when_a_tensor_arrives() -> None:
    code = "import sys, torch, argumbel; argumbel.gumbel_max(torch.zeros(3)); assert 'argumbel.kernels.triton' not in "
    subprocess.run([sys.executable, "-c", code + "sys.modules"], check=True, timeout=120)


@ON_GPU
def test_nothing_waits_for_the_device_and_all_can_be_captured() -> None:
    x = there(torch.randn(3, 5000))
    hidden, weight, bias = (there(x) for x in head(torch.bfloat16, 3, 300, 64))
    seed, winners = there(torch.tensor(5)), there(torch.tensor([3, 0, 4999]))

    def everything() -> list[Tensor]:
        noise = ag.KeyedNoise(seed)
        return [
            ag.categorical(x, (2,)),
            ag.gumbel_max(x, noise=noise).indices,
            ag.gumbel_topk(x, 5, noise=noise).indices,
            ag.gumbel_softmax(x, 0.5, noise=noise),
            ag.gumbel_softmax(x, 0.5, hard=True, noise=ag.KeyedNoise(3)),
            ag.linear_categorical(hidden, weight, bias=bias, temperature=0.7),
            ag.linear_gumbel_max(hidden, weight, noise=noise).indices,
            *(ag.gumbel_topk(x, k, noise=noise).indices for k in (1000, 5000)),
            ag.posterior_gumbel(x, winners, noise=noise),
            *(ag.sample_without_replacement(x, k).indices for k in (5, 1000)),
        ]

    everything()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        eager = everything()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = everything()
    graph.replay()
    first = [y.clone() for y in captured]
    seed += 1
    graph.replay()
    for place in (1, 2, 3, 6, 7, 8, 9):  # keyed
        assert torch.equal(first[place], eager[place])
        assert not torch.equal(first[place], captured[place])
    for place in (0, 10, 11):  # the generator moves on
        assert not torch.equal(first[place], captured[place])


@ON_GPU
def test_ten_million_choices_are_those_of_the_cpu() -> None:
    for rows, n in [(1_000_000, 10), (10_000, 1000)]:
        for start in range(0, 5_000_000, 1_000_000):
            ids = torch.arange(start, start + rows)
            x = 2 * torch.randn(rows, n)
            noise = ag.KeyedNoise(9, rows=ids)
            exact = ag.gumbel_max(x, noise=noise).indices
            assert torch.equal(here(ag.gumbel_max(there(x), noise=noise).indices), exact)
