"""How PyTorch is running what is called now."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch._C._functorch import TransformType
from torch.autograd import forward_ad

__all__ = ["has_autocast", "is_differentiated", "is_eager", "is_recorded", "is_transformed", "transforms_work"]

# Each small draw asks several times: names of this module are found faster than attributes of torch's.
_is_compiling = torch.compiler.is_compiling
_dispatch_modes, _jit = torch._C._len_torch_dispatch_stack, torch._C._get_tracing_state
_transform, _transforms = torch._C._functorch.peek_interpreter_stack, torch._C._functorch.get_interpreter_stack


def is_recorded() -> bool:
    """Whether calls are recorded: by torch.compile, by a dispatch mode (FakeTensorMode, say) or by torch.jit.trace."""
    return _is_compiling() or _dispatch_modes() > 0 or _jit() is not None


def is_transformed() -> bool:
    """Whether a transform of torch.func is at work."""
    return _transform() is not None


def _has_derivatives() -> bool:
    return any(transform.key() in (TransformType.Grad, TransformType.Jvp) for transform in _transforms() or ())


def has_autocast(device: str) -> bool:
    """Whether this type of device knows autocast."""
    return torch.amp.is_autocast_available(device)


# torch.compile asks once, while it traces: it cannot trace the questions themselves (PyTorch 2.4), or takes no answer
# for None (2.13). What it compiles is guarded by the transforms. The attribute is that of `assume_constant_result` of
# torch.compiler, whose import of the compiler takes seconds.
for _question in is_transformed, _has_derivatives, has_autocast:
    setattr(_question, "_dynamo_marked_constant", True)  # noqa: B010


def is_differentiated() -> bool:
    """Whether a derivative is taken by ``torch.func`` (``grad``, ``jvp`` and so on), or by a dual number."""
    return forward_ad._current_level >= 0 or _has_derivatives()


_USUAL = torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set()


def transforms_work() -> AbstractContextManager[Any]:
    """A context for the body of an operator, in which ``torch.func`` works. In the first run of compiled code PyTorch
    (2.13) looks at operators through a dispatch mode, and what a mode calls would see no transform."""
    if torch._C._dispatch_tls_is_dispatch_key_excluded(torch._C.DispatchKey.FuncTorchDynamicLayerFrontMode):
        return torch._C._ForceDispatchKeyGuard(*_USUAL)
    return nullcontext()


def is_eager() -> bool:
    """Whether calls are neither recorded nor transformed."""
    return not (is_recorded() or is_transformed())
