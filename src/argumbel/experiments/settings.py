"""What a setting of an experiment is: a field of a dataclass, described where it stands.

The class :class:`Setting` is the description. The presets, the options and the help of the command line, the checks of
the values and what a resumed run may change are all made from it, so a new setting is one new field.
"""

from __future__ import annotations

import operator
import os
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from typing import Any, SupportsFloat, Union, get_args, get_origin, get_type_hints

from .._core.checks import one_of

__all__ = ["Setting", "settings_of"]


@dataclass(frozen=True)
class Setting:
    """The description of one field of a frozen dataclass: ``name: Annotated[type, Setting(...)] = default``.

    Args:
        panel: the part of the help in which the option stands.
        text: the help of the option. The default is added to it.
        presets: the default of single datasets, where it is another than the field's.
        default_text: the default in words, where its value does not tell it; "" to say nothing.
        choices: the values that are allowed. Empty allows all.
        minimum: the smallest number that is allowed.
        positive: whether the number must be above 0.
        path: whether the text is a path. The command line makes it absolute, so that a run can be opened from anywhere.
        resumable: whether a resumed run may change it.
        later: whether there are runs from before this setting existed. They were trained with the field's default.

    The other fields tell what the dataclass says: :func:`settings_of` fills them in. They are ``kind`` (the type of the
    field, such as int or tuple), ``element`` (the type of the elements of a tuple), ``optional`` (whether the field may
    be None) and ``value`` (its default).

    >>> from argumbel.experiments import Config
    >>> Config.settings()["lr"].help
    'Learning rate. Default: 3e-3 for digits, else 1e-3.'
    """

    panel: str
    text: str
    presets: Mapping[str, Any] = field(default_factory=dict)
    default_text: str | None = None
    choices: Sequence[str] = ()
    minimum: int | None = None
    positive: bool = False
    path: bool = False
    resumable: bool = False
    later: bool = False
    kind: type = str
    element: type | None = None
    optional: bool = False
    value: Any = None

    @property
    def help(self) -> str:
        """The text with the default."""
        words = self.default_text
        if words is None:
            values = [f"{_words(value)} for {dataset}" for dataset, value in self.presets.items()]
            words = ", else ".join([*values, _words(self.value)])
        return f"{self.text} Default: {words}." if words else self.text

    def check(self, name: str, value: Any) -> Any:
        """The value as Python's own type, so that JSON can hold it. NumPy's and PyTorch's numbers are taken too.

        Raises:
            TypeError: the value is of another kind.
            ValueError: it is a number that is too small, or not one of the choices.
        """
        if value is None and self.optional:
            return None
        if self.kind is tuple:
            if isinstance(value, str) or not isinstance(value, Iterable):
                raise TypeError(f"{name} must be a tuple, but it is {value!r}; give a tuple, of one element if need be")
            return tuple(_plain(f"each of {name}", element, self.element) for element in value)
        value = os.fspath(value) if self.path else _plain(name, value, self.kind)
        if self.choices:
            one_of(name, value, self.choices)
        if self.minimum is not None and not value >= self.minimum:
            raise ValueError(f"{name} must be at least {self.minimum}, but it is {value}; give a larger number")
        if self.positive and not value > 0:
            raise ValueError(f"{name} must be above 0, but it is {value}; give a positive number")
        return value


def settings_of(cls: type) -> Mapping[str, Setting]:
    """The description of each field of a dataclass, in the order of the fields."""
    hints = get_type_hints(cls, include_extras=True)
    return types.MappingProxyType({f.name: _described(hints[f.name], f.default) for f in fields(cls)})


def _described(hint: Any, default: Any) -> Setting:
    """The setting in ``Annotated[type, Setting(...)]``, with what the type and the field's default tell."""
    declared, setting = get_args(hint)
    optional = get_origin(declared) in (Union, types.UnionType)
    if optional:
        declared = next(kind for kind in get_args(declared) if kind is not types.NoneType)
    kind = get_origin(declared) or declared
    element = get_args(declared)[0] if kind is tuple else None
    return replace(setting, kind=kind, element=element, optional=optional, value=default)


def _plain(name: str, value: Any, kind: type | None) -> Any:
    """The value as a Python int, float or bool, if the kind is one of these."""
    number = not isinstance(value, bool)
    if kind is int:
        try:
            if number:
                return operator.index(value)
        except TypeError:
            pass
        raise TypeError(f"{name} must be an integer, but it is {value!r}; give a whole number")
    if kind is float:
        if not number or not isinstance(value, SupportsFloat):
            raise TypeError(f"{name} must be a number, but it is {value!r}; give float({name})")
        return float(value)
    if kind is bool:
        if isinstance(value, str):
            raise TypeError(f"{name} must be True or False, but it is {value!r}; give one of the two")
        return bool(value)
    return value


def _words(value: Any) -> str:
    """A default as the command line takes it: ``3e-3``, ``256,128``, ``yes``."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return min(f"{value:g}", f"{Decimal(repr(value)):e}", key=len) if isinstance(value, float) else str(value)
