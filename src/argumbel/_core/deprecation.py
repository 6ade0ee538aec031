"""How an old name goes on working for a while: it does what the new name does, and warns.

A module whose public name is renamed::

    __getattr__ = renamed_names(__name__, {"old": "argumbel.relax.new"}, removal="0.3")

A function whose keyword argument is renamed::

    @renamed_arguments({"old": "new"}, removal="0.3")
    def function(logits: Tensor, *, new: float = 1.0) -> Tensor: ...
"""

from __future__ import annotations

import functools
import pkgutil
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

__all__ = ["renamed_arguments", "renamed_names", "warn_renamed"]

P = ParamSpec("P")
R = TypeVar("R")


def warn_renamed(old: str, new: str, *, removal: str, stacklevel: int = 2) -> None:
    """Warn that ``old`` is now called ``new``.

    Args:
        old: The name that was used.
        new: The name to use.
        removal: The version in which ``old`` stops working.
        stacklevel: As in ``warnings.warn``: 1 is the caller of this function, 2 (the default) its caller, the user.
    """
    message = f"{old} is deprecated and will be removed in version {removal}; use {new}"
    warnings.warn(message, DeprecationWarning, stacklevel=stacklevel + 1)


def renamed_names(module: str, names: Mapping[str, str], *, removal: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module some of whose names have new names.

    Args:
        module: The module's ``__name__``.
        names: The new name of each old one, with its module: ``{"old": "argumbel.relax.new"}``. The module of the new
            name may be another one; it is imported when the old name is first used.
        removal: The version in which the old names stop working.

    Returns:
        A function that takes a name. It warns and returns the object of the new name, or raises AttributeError, as
        Python does for a name that the module never had.
    """

    def __getattr__(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn_renamed(f"{module}.{name}", names[name], removal=removal)
        return pkgutil.resolve_name(names[name])

    return __getattr__


def renamed_arguments(names: Mapping[str, str], *, removal: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator for a function some of whose keyword arguments have new names.

    The signature shows the new names only. A type checker rejects the old names; at run time they warn.

    Args:
        names: The new name of each old one: ``{"old": "new"}``.
        removal: The version in which the old names stop working.

    Returns:
        The decorator. The decorated function raises TypeError if one argument comes under both of its names.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def renamed(*args: P.args, **kwargs: P.kwargs) -> R:
            for old, new in names.items():
                if old not in kwargs:
                    continue
                if new in kwargs:
                    raise TypeError(f"{new} must be given once, but it came as {old} too; drop {old}")
                warn_renamed(f"{function.__name__}({old}=)", f"{new}=", removal=removal)
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return renamed

    return decorate
