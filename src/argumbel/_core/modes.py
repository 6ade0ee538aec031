"""How PyTorch is running what is called now."""

from __future__ import annotations

import torch

__all__ = ["is_eager", "is_recorded", "is_transformed"]

# Each small draw asks several times: names of this module are found faster than attributes of torch's.
_is_compiling = torch.compiler.is_compiling
_dispatch_modes, _jit = torch._C._len_torch_dispatch_stack, torch._C._get_tracing_state
_transform, _Transform = torch._C._functorch.peek_interpreter_stack, torch._C._functorch.CInterpreter


def is_recorded() -> bool:
    """Whether calls are recorded: by torch.compile, by a dispatch mode (FakeTensorMode, say) or by torch.jit.trace."""
    return _is_compiling() or _dispatch_modes() > 0 or _jit() is not None


def is_transformed() -> bool:
    """Whether a transform of torch.func is at work."""
    return isinstance(_transform(), _Transform)  # to torch.compile, nothing that is returned is None


def is_eager() -> bool:
    """Whether calls are neither recorded nor transformed."""
    return not (is_recorded() or is_transformed())
