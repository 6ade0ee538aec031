"""The operations everything else is made of, each with one schema and several backends.

This file alone decides which backend runs: on a CPU the C++ of ``cpu/``, on a GPU ``triton/``, which have the same
functions. In eager mode they are called directly: a registered operator would cost more than many a small draw. Under
``torch.compile`` the same calls are operators of ``torch.library``, opaque to the compiler, so compiled code draws what
eager code draws. Everything else (other devices, ``vmap``, float64 logits, machines without the extension or without
Triton) runs ``reference.py``.

Keys are ``(seed, rows, items)``: the seed a 0-dimensional int64 tensor or an int, the ids int64 tensors or None.
"""

from __future__ import annotations

import functools
import os
import warnings
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .._core.checks import can_raise, is_traced
from . import cpu, reference

__all__ = [
    "cached_temperature",
    "categorical",
    "gumbel_max",
    "gumbel_softmax",
    "gumbel_topk",
    "is_native",
    "is_native_linear",
    "linear_categorical",
    "linear_gumbel_max",
    "noise",
    "posterior_gumbel",
    "sample_without_replacement",
    "temperature",
]

Key = tuple[Tensor | int, Tensor | None, Tensor | None]

NATIVE = (torch.float32, torch.float16, torch.bfloat16)
PLAIN = (Tensor, torch.nn.Parameter, int)  # no fake tensors, nor other subclasses that stand for something


# Whether Triton's interpreter runs tensors of the CPU: slow, for tests (ARGUMBEL_KERNELS=triton, TRITON_INTERPRET=1).
interpreted = os.environ.get(cpu.VARIABLE) == "triton"
LONGEST_ROW = 2**31 - 2**20  # Triton's kernels count within a row, and within its last tile, in 32 bits
_has_triton = find_spec("triton") is not None and os.environ.get(cpu.VARIABLE) != "reference"


def _on_cpu(device: torch.device) -> bool:
    """Whether tensors there belong to the C++."""
    return device.type == "cpu" and not interpreted


def _backend(device: torch.device) -> ModuleType:
    """The module whose functions run on this device; imported when the first tensor arrives."""
    if _on_cpu(device):
        return cpu
    from . import triton

    return triton


def _is_native_here(device: torch.device, n: int) -> bool:
    """Whether rows of n items made here and now have storage that kernels may fill: not in a transform (vmap, grad)."""
    if device.type == "cpu" and not interpreted:  # _on_cpu, but a call less: these lines are on the way of every draw
        if cpu.library is None:
            return False
    elif device.type not in ("cuda", "cpu") or n > LONGEST_ROW:
        return False
    elif not _has_triton:
        if not torch.compiler.is_compiling() and os.environ.get(cpu.VARIABLE) != "reference":
            warnings.warn(
                "argumbel finds no Triton, so tensors on the GPU run on plain PyTorch, right but slow: "
                f"pip install triton, or set {cpu.VARIABLE}=reference to choose that silently",
                RuntimeWarning,
                stacklevel=2,
            )
        return False
    return torch._C._functorch.peek_interpreter_stack() is None or torch.compiler.is_compiling()


def _is_plain(key: Key) -> bool:
    seed, rows, items = key
    return type(seed) in PLAIN and (rows is None or type(rows) in PLAIN) and (items is None or type(items) in PLAIN)


def is_native(x: Tensor, key: Key | None = None, *, only_cpu: bool = False) -> bool:
    """Whether a native backend takes these logits under this key (None: one of its own)."""
    if x.dtype not in NATIVE or not _is_native_here(x.device, x.shape[-1]) or (only_cpu and not _on_cpu(x.device)):
        return False
    if forward_ad._current_level >= 0:  # the reference carries forward-mode tangents
        return False
    return torch.compiler.is_compiling() or (type(x) in PLAIN and (key is None or _is_plain(key)))


def _seed_tensor(seed: Tensor | int, device: torch.device) -> Tensor:
    # Filled, not copied: a copy to a GPU would wait for it.
    return seed.to(device) if isinstance(seed, Tensor) else torch.full((), seed, dtype=torch.int64, device=device)


def _bound(key: Key, device: torch.device) -> tuple[ModuleType, Any]:
    """The backend, and the key as it takes it: C++ a number for a seed, Triton a tensor, which is not looked at."""
    if device.type == "cpu" and not interpreted:
        return cpu, (int(key[0]), key[1], key[2])
    return _backend(device), (_seed_tensor(key[0], device), key[1], key[2])


def temperature(number: float, device: torch.device) -> Tensor:
    """A temperature as kernels on this device take it: on the CPU, where a number costs a GPU nothing; of code that is
    compiled, on the device, for else it could not become a CUDA graph."""
    if torch.compiler.is_compiling():
        return torch.full((1,), number, dtype=torch.float32, device=device)
    return cached_temperature(number)


@functools.lru_cache(maxsize=64)
def cached_temperature(number: float) -> Tensor:
    with torch.inference_mode(False):  # shared by all, also by those who train; and written by nobody
        return torch.full((1,), number, dtype=torch.float32, device="cpu")


# ---------------------------------------------------------------------------------------------------------------- noise


@torch.library.custom_op("argumbel::noise", mutates_args=())
def _noise_op(
    law: str, seed: Tensor, shape: list[int], rows: Tensor | None, items: Tensor | None, dtype: torch.dtype
) -> Tensor:
    # Not `noise`: a compiler that folds constants runs this body while it compiles, and would come back here for ever.
    if _makes_noise(dtype, seed.device, shape[-1]):
        run, key = _bound((seed, rows, items), seed.device)
        return run.noise(law, torch.Size(shape), dtype, key)
    return _plain_noise(law, (seed, rows, items), torch.Size(shape), dtype, seed.device)


@_noise_op.register_fake
def _(
    law: str, seed: Tensor, shape: list[int], rows: Tensor | None, items: Tensor | None, dtype: torch.dtype
) -> Tensor:
    return seed.new_empty(shape, dtype=dtype)


def _makes_noise(dtype: torch.dtype, device: torch.device, n: int) -> bool:
    return _is_native_here(device, n) and (dtype in NATIVE or _on_cpu(device))


def noise(law: str, key: Key, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Keyed noise, "uniform", "exponential", "gumbel" or "logistic"; the last dimension of shape is items."""
    if _makes_noise(dtype, device, shape[-1]):
        if torch.compiler.is_compiling():
            return torch.ops.argumbel.noise(law, _seed_tensor(key[0], device), shape, key[1], key[2], dtype)
        if _is_plain(key):
            run, own = _bound(key, device)
            return run.noise(law, shape, dtype, own)
    return _plain_noise(law, key, shape, dtype, device)


def _plain_noise(law: str, key: Key, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    seed, rows, items = key
    if rows is None:
        rows = torch.arange(shape[:-1].numel(), device=device)
    work = torch.float64 if dtype == torch.float64 else torch.float32
    ids = shape[-1] if items is None else items
    return reference.noise(law, _seed_tensor(seed, device), rows.reshape(shape[:-1]), ids, work).to(dtype)


# ---------------------------------------------------------------------------------------------- gumbel_max, gumbel_topk


@torch.library.custom_op("argumbel::gumbel_max", mutates_args=())
def _gumbel_max_op(x: Tensor, seed: Tensor, rows: Tensor | None, items: Tensor | None) -> tuple[Tensor, Tensor]:
    run, key = _bound((seed, rows, items), x.device)
    return run.gumbel_max(x, key)[:2]


@_gumbel_max_op.register_fake
def _(x: Tensor, seed: Tensor, rows: Tensor | None, items: Tensor | None) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[:-1]), x.new_empty(x.shape[:-1], dtype=torch.int64)


@torch.library.custom_op("argumbel::gumbel_topk", mutates_args=())
def _gumbel_topk_op(
    x: Tensor, k: int, seed: Tensor, rows: Tensor | None, items: Tensor | None
) -> tuple[Tensor, Tensor]:
    run, key = _bound((seed, rows, items), x.device)
    return run.gumbel_topk(x, k, key)[:2]


@_gumbel_topk_op.register_fake
def _(x: Tensor, k: int, seed: Tensor, rows: Tensor | None, items: Tensor | None) -> tuple[Tensor, Tensor]:
    return x.new_empty((*x.shape[:-1], k)), x.new_empty((*x.shape[:-1], k), dtype=torch.int64)


def _race_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.shape = inputs[0].shape
    ctx.num_inputs = len(inputs)


def _race_backward(ctx: Any, grad: Tensor, _indices: Tensor) -> tuple[Tensor | None, ...]:
    """The gradient of perturbed values goes to the items they belong to."""
    (indices,) = ctx.saved_tensors
    if indices.ndim < len(ctx.shape):
        indices, grad = indices.unsqueeze(-1), grad.unsqueeze(-1)
    # Places beyond the support are marked by -1, and get nothing.
    own = grad.masked_fill(indices < 0, 0)
    x_grad = grad.new_zeros(ctx.shape).scatter_add(-1, indices.clamp(min=0), own)
    return x_grad, *[None] * (ctx.num_inputs - 1)


_gumbel_max_op.register_autograd(_race_backward, setup_context=_race_setup)
_gumbel_topk_op.register_autograd(_race_backward, setup_context=_race_setup)


class _Race(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, k: int | None, key: Any) -> tuple[Tensor, Tensor, bool]:
        run = _backend(x.device)
        values, indices, bad = run.gumbel_max(x, key) if k is None else run.gumbel_topk(x, k, key)
        _race_setup(ctx, (x, k, key), (values, indices))
        return values, indices, bad

    @staticmethod
    def backward(ctx: Any, grad: Tensor, indices: Tensor, _bad: Any) -> tuple[Tensor | None, ...]:
        return _race_backward(ctx, grad, indices)


def gumbel_max(x: Tensor, key: Key) -> tuple[Tensor, Tensor, bool]:
    """Values, indices and whether a row was bad (where that may be known); for logits that ``is_native`` takes."""
    if torch.compiler.is_compiling():
        return *torch.ops.argumbel.gumbel_max(x, _seed_tensor(key[0], x.device), key[1], key[2]), False
    run, key = _bound(key, x.device)
    if x.requires_grad and torch.is_grad_enabled():
        return _Race.apply(x, None, key)
    return run.gumbel_max(x, key)


def gumbel_topk(x: Tensor, k: int, key: Key) -> tuple[Tensor, Tensor, bool]:
    """The same of the first k."""
    if torch.compiler.is_compiling():
        return *torch.ops.argumbel.gumbel_topk(x, k, _seed_tensor(key[0], x.device), key[1], key[2]), False
    run, key = _bound(key, x.device)
    if x.requires_grad and torch.is_grad_enabled():
        return _Race.apply(x, k, key)
    return run.gumbel_topk(x, k, key)


# ------------------------------------------------------------------------------------------ sample_without_replacement


@torch.library.custom_op("argumbel::sample_without_replacement", mutates_args=())
def _sample_without_replacement_op(x: Tensor, k: int, seed: Tensor) -> tuple[Tensor, Tensor]:
    return cpu.sample_without_replacement(x, k, int(seed))[:2]


@_sample_without_replacement_op.register_fake
def _(x: Tensor, k: int, seed: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty((*x.shape[:-1], k)), x.new_empty((*x.shape[:-1], k), dtype=torch.int64)


def sample_without_replacement(x: Tensor, k: int, seed: Tensor | int) -> tuple[Tensor, Tensor, bool]:
    """The law of ``gumbel_topk``; for logits that ``is_native`` takes. No gradient."""
    if 256 * k > x.shape[-1] or not _on_cpu(x.device):  # measured: from here on the dense race is faster
        return gumbel_topk(x.detach(), k, (seed, None, None))
    if torch.compiler.is_compiling():
        return *torch.ops.argumbel.sample_without_replacement(x, k, _seed_tensor(seed, x.device)), False
    return cpu.sample_without_replacement(x, k, int(seed))


# ----------------------------------------------------------------------------------------------------- posterior_gumbel


@torch.library.custom_op("argumbel::posterior_gumbel", mutates_args=())
def _posterior_gumbel_op(
    x: Tensor, index: Tensor, value: Tensor | None, seed: Tensor, rows: Tensor | None, items: Tensor | None
) -> Tensor:
    return cpu.posterior_gumbel(x, index, value, (int(seed), rows, items))[0]


@_posterior_gumbel_op.register_fake
def _(
    x: Tensor, index: Tensor, value: Tensor | None, seed: Tensor, rows: Tensor | None, items: Tensor | None
) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.float32)


def _posterior_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, index, value = inputs[:3]
    ctx.is_drawn = value is None
    ctx.num_inputs = len(inputs)
    ctx.save_for_backward(x, index, output)


def _posterior_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Each value hangs between its own logit and the height T of the winner, and T on all logits where it was drawn:
    d values[i] / dT = exp(values[i] - T), d values[i] / d x[i] = 1 - that, dT / dx = softmax(x)."""
    x, index, values = ctx.saved_tensors
    below = values - values.gather(-1, index.unsqueeze(-1))
    rise = (grad * below.exp()).sum(-1, keepdim=True)
    x_grad = -grad * below.expm1()
    if ctx.is_drawn:
        x_grad = x_grad + rise * x.float().softmax(-1)
    x_grad = x_grad.masked_fill(x == -torch.inf, 0).to(x.dtype)
    return x_grad, None, None if ctx.is_drawn else rise.squeeze(-1), *[None] * (ctx.num_inputs - 3)


_posterior_gumbel_op.register_autograd(_posterior_backward, setup_context=_posterior_setup)


class _PosteriorGumbel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, value: Tensor | None, key: Any) -> tuple[Tensor, bool]:
        out, bad = cpu.posterior_gumbel(x, index, value, key)
        _posterior_setup(ctx, (x, index, value, key), out)
        return out, bad

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _bad: Any) -> tuple[Tensor | None, ...]:
        return _posterior_backward(ctx, grad)


def posterior_gumbel(x: Tensor, index: Tensor, value: Tensor | None, key: Key) -> tuple[Tensor, bool]:
    """Perturbed values, in float32, of races that ``index`` won (at the height ``value``, float32, if it is known), and
    whether a row was bad (where that may be known); for logits that ``is_native`` takes with ``only_cpu``."""
    if torch.compiler.is_compiling():
        return torch.ops.argumbel.posterior_gumbel(x, index, value, _seed_tensor(key[0], x.device), *key[1:]), False
    if torch.is_grad_enabled() and (x.requires_grad or (value is not None and value.requires_grad)):
        return _PosteriorGumbel.apply(x, index, value, _bound(key, x.device)[1])
    return cpu.posterior_gumbel(x, index, value, _bound(key, x.device)[1])


# ------------------------------------------------------------------------------------------------------- gumbel_softmax


@torch.library.custom_op("argumbel::gumbel_softmax", mutates_args=())
def _gumbel_softmax_op(
    x: Tensor, tau: Tensor, hard: bool, seed: Tensor, rows: Tensor | None, items: Tensor | None
) -> Tensor:
    run, key = _bound((seed, rows, items), x.device)
    return run.gumbel_softmax(x, tau, hard, key)[0]


@_gumbel_softmax_op.register_fake
def _(x: Tensor, tau: Tensor, hard: bool, seed: Tensor, rows: Tensor | None, items: Tensor | None) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("argumbel::gumbel_softmax_backward", mutates_args=())
def _gumbel_softmax_backward_op(y: Tensor, grad: Tensor, tau: Tensor) -> Tensor:
    return _backend(y.device).gumbel_softmax_backward(y, grad, tau)


@_gumbel_softmax_backward_op.register_fake
def _(y: Tensor, grad: Tensor, tau: Tensor) -> Tensor:
    return y.new_empty(y.shape)


def _softmax_gradients(
    y: Tensor, grad: Tensor, tau: Tensor, wants_tau: bool, plain: bool
) -> tuple[Tensor, Tensor | None]:
    """Gradients of softmax(keys / tau) with respect to keys and tau, from its value y."""
    if plain:
        rows = tau.reshape((*y.shape[:-1], 1)) if tau.numel() > 1 else tau.reshape(())
        slope = torch.where(rows > 0, 1 / rows, 0)  # at tau = 0 the sample is exact and does not move
        x_grad = (y * (grad - (y * grad).sum(-1, keepdim=True)) * slope).to(y.dtype)
    elif torch.compiler.is_compiling():
        x_grad = torch.ops.argumbel.gumbel_softmax_backward(y, grad, tau)
    else:
        x_grad = _backend(y.device).gumbel_softmax_backward(y, grad, tau)
    if not wants_tau:
        return x_grad, None
    # keys / tau is log y up to a constant of the row, which the gradient (its sum is zero) does not see.
    log_y = torch.where(y > 0, y, 1).float().log()
    tau_grad = -(x_grad * log_y).sum(-1)
    return x_grad, tau_grad.reshape(tau.shape) if tau.numel() > 1 else tau_grad.sum().reshape(tau.shape)


def _gumbel_softmax_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, tau, ctx.hard, *key = inputs
    # A hard sample recomputes the soft one, noise and all, from the key: nothing of the size of the noise is stored. A
    # seed, or an id, that has been written to meanwhile is an error.
    ctx.seed = None if isinstance(key[0], Tensor) else key[0]
    ctx.save_for_backward(x if ctx.hard else output, tau, *(k if isinstance(k, Tensor) else None for k in key))


def _gumbel_softmax_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    saved, tau, seed, rows, items = ctx.saved_tensors
    key = (ctx.seed if seed is None else seed, rows, items)
    # Plain PyTorch where the gradient is differentiated again, batched (is_grads_batched) or only traced.
    plain = torch.is_grad_enabled() or is_traced(grad)
    if ctx.hard and not (plain or ctx.needs_input_grad[1] or torch.compiler.is_compiling()):
        run, own = _bound(key, saved.device)
        return run.gumbel_softmax_backward_keyed(saved, grad, tau, own), *[None] * 5
    y = gumbel_softmax(saved, tau, False, key)[0] if ctx.hard else saved
    x_grad, tau_grad = _softmax_gradients(y, grad, tau, ctx.needs_input_grad[1], plain)
    return x_grad, tau_grad, None, None, None, None


_gumbel_softmax_op.register_autograd(_gumbel_softmax_backward, setup_context=_gumbel_softmax_setup)


class _GumbelSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, tau: Tensor, hard: bool, seed: Tensor | int, rows: Tensor | None, items: Tensor | None
    ) -> tuple[Tensor, bool]:
        y, bad = _backend(x.device).gumbel_softmax(x, tau, hard, (seed, rows, items))
        _gumbel_softmax_setup(ctx, (x, tau, hard, seed, rows, items), y)
        return y, bad

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _bad: Any) -> tuple[Tensor | None, ...]:
        return _gumbel_softmax_backward(ctx, grad)


def gumbel_softmax(x: Tensor, tau: Tensor, hard: bool, key: Key) -> tuple[Tensor, bool]:
    """The relaxed sample and whether a row was bad (where that may be known); for logits that ``is_native`` takes.

    tau is a float32 tensor of one element (which may lie on the CPU), or of one for each row.
    """
    if torch.compiler.is_compiling() or type(x) not in PLAIN:
        y = torch.ops.argumbel.gumbel_softmax(x, tau, hard, _seed_tensor(key[0], x.device), key[1], key[2])
        return y, False
    run, key = _bound(key, x.device)
    if not (torch.is_grad_enabled() and (x.requires_grad or tau.requires_grad)):
        return run.gumbel_softmax(x, tau, hard, key)
    small = run is cpu and 0 < x.numel() <= SMALL and x.dtype == torch.float32
    if small and tau.numel() == 1 and not tau.requires_grad:
        number = tau.item()
        if number > 1e-3:  # colder, a quotient may overflow
            return _small_gumbel_softmax(x, tau, number, hard, key)
    return _GumbelSoftmax.apply(x, tau, hard, *key)


SMALL = 512  # below this many logits a Python function in the graph costs more than all of PyTorch's own


def _small_gumbel_softmax(x: Tensor, tau: Tensor, number: float, hard: bool, key: Any) -> tuple[Tensor, bool]:
    """The same value (up to rounding) and gradient, the graph made of PyTorch's own nodes."""
    keys = x + cpu.noise("gumbel", x.shape, x.dtype, key)
    soft = torch.softmax(keys if number == 1 else keys / number, -1)
    if not hard:
        return soft, cpu.bad_row(x)
    one_hot, bad = cpu.gumbel_softmax(x, tau, True, key)
    return one_hot + (soft - soft.detach()), bad


# ---------------------------------------------------------------------------------------------------------- categorical


@torch.library.custom_op("argumbel::categorical", mutates_args=())
def _categorical_op(x: Tensor, seed: Tensor, sample_shape: list[int], with_log_z: bool) -> tuple[Tensor, Tensor]:
    return _categorical(x, seed, torch.Size(sample_shape), with_log_z)[:2]


def _categorical(
    x: Tensor, seed: Tensor | int, sample_shape: torch.Size, with_log_z: bool
) -> tuple[Tensor, Tensor, bool]:
    run, key = _bound((seed, None, None), x.device)
    return run.categorical(x, key[0], sample_shape, with_log_z)


@_categorical_op.register_fake
def _(x: Tensor, seed: Tensor, sample_shape: list[int], with_log_z: bool) -> tuple[Tensor, Tensor]:
    draws = x.new_empty((*sample_shape, *x.shape[:-1]), dtype=torch.int64)
    return draws, x.new_empty(x.shape[:-1] if with_log_z else (0,), dtype=torch.float64)


def categorical(
    x: Tensor, seed: Tensor | int, sample_shape: torch.Size, with_log_z: bool = False
) -> tuple[Tensor, Tensor, bool]:
    """Draws of shape ``sample_shape + x.shape[:-1]``, log Z of each row where it is wanted, and whether a row was bad
    (where that may be known); the draws of a bad row are -1."""
    if is_native(x, (seed, None, None)):
        if torch.compiler.is_compiling():
            draws, log_z = torch.ops.argumbel.categorical(x, _seed_tensor(seed, x.device), sample_shape, with_log_z)
            return draws, log_z, False
        return _categorical(x, seed, sample_shape, with_log_z)
    draws, log_z = reference.categorical(x, _seed_tensor(seed, x.device), sample_shape)
    bad = ~log_z.isfinite()
    return draws.masked_fill(bad, -1), log_z, can_raise(bad) and bool(bad.any())


# -------------------------------------------------------------------------------------------------------------- linear


def is_native_linear(hidden: Tensor, weight: Tensor, key: Key) -> bool:
    """Whether the race is run inside the matrix product here: on a GPU."""
    if _on_cpu(hidden.device) or weight.shape[0] > LONGEST_ROW:
        return False
    return is_native(hidden, key) and (torch.compiler.is_compiling() or type(weight) in PLAIN)


@torch.library.custom_op("argumbel::linear_gumbel_max", mutates_args=())
def _linear_gumbel_max_op(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    temperature: Tensor,
    seed: Tensor,
    rows: Tensor | None,
    items: Tensor | None,
) -> tuple[Tensor, Tensor]:
    run, key = _bound((seed, rows, items), hidden.device)
    return run.linear_gumbel_max(hidden, weight, bias, temperature, key)


@_linear_gumbel_max_op.register_fake
def _(hidden: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    shape = hidden.shape[:-1]
    return hidden.new_empty(shape, dtype=torch.float32), hidden.new_empty(shape, dtype=torch.int64)


@torch.library.custom_op("argumbel::linear_categorical", mutates_args=())
def _linear_categorical_op(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: Tensor, seed: Tensor
) -> tuple[Tensor, Tensor]:
    return _backend(hidden.device).linear_categorical(hidden, weight, bias, temperature, seed)


@_linear_categorical_op.register_fake
def _(hidden: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    shape = hidden.shape[:-1]
    return hidden.new_empty(shape, dtype=torch.float32), hidden.new_empty(shape, dtype=torch.int64)


def linear_gumbel_max(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: Tensor, key: Key
) -> tuple[Tensor, Tensor]:
    """Values (float32) and indices of the race of ``(hidden @ weight.T + bias) / temperature``; a bad row has NaN and
    -1. For what ``is_native_linear`` takes; no gradient. temperature as tau of :func:`gumbel_softmax`."""
    if torch.compiler.is_compiling():
        seed = _seed_tensor(key[0], hidden.device)
        return torch.ops.argumbel.linear_gumbel_max(hidden, weight, bias, temperature, seed, key[1], key[2])
    run, key = _bound(key, hidden.device)
    return run.linear_gumbel_max(hidden, weight, bias, temperature, key)


def linear_categorical(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: Tensor, seed: Tensor | int
) -> tuple[Tensor, Tensor]:
    """Heights, not finite in bad rows, and draws from softmax of the same logits."""
    seed = _seed_tensor(seed, hidden.device)
    if torch.compiler.is_compiling():
        return torch.ops.argumbel.linear_categorical(hidden, weight, bias, temperature, seed)
    return _backend(hidden.device).linear_categorical(hidden, weight, bias, temperature, seed)
