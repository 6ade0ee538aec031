"""Old names do what the new ones do, warn where the user wrote them, and say what to write and until when."""

from __future__ import annotations

import inspect
import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor

from argumbel._core.deprecation import renamed_arguments, renamed_names, warn_renamed


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module in which ``old`` became ``new``, and ``moved`` a function of another module."""
    module = ModuleType("made_up")
    module.new = object()
    names = {"old": "made_up.new", "moved": "argumbel.relax.gumbel_softmax"}
    module.__getattr__ = renamed_names("made_up", names, removal="0.3")
    monkeypatch.setitem(sys.modules, "made_up", module)
    return module


@renamed_arguments({"heat": "temperature", "keys": "values"}, removal="0.3")
def scaled(values: Tensor, *, temperature: float = 1.0) -> Tensor:
    """values / temperature."""
    return values / temperature


def here() -> int:
    """The line of the caller."""
    return inspect.stack()[1].lineno


def test_an_old_name_is_the_new_one_and_warns_where_it_is_used(module: ModuleType) -> None:
    expected = r"^made_up\.old is deprecated and will be removed in version 0\.3; use made_up\.new$"
    with pytest.warns(DeprecationWarning, match=expected) as caught:
        found, line = module.old, here()
    assert found is module.new
    assert [(w.filename, w.lineno) for w in caught] == [(__file__, line)]


def test_from_import_of_an_old_name_warns_where_it_is_written(module: ModuleType) -> None:
    with pytest.warns(DeprecationWarning, match="made_up.old is deprecated") as caught:
        from made_up import old
    assert old is module.new
    assert [w.filename for w in caught] == [__file__]


def test_a_name_may_move_to_another_module(module: ModuleType) -> None:
    import argumbel as ag

    with pytest.warns(DeprecationWarning, match=r"use argumbel\.relax\.gumbel_softmax"):
        assert module.moved is ag.gumbel_softmax


def test_a_name_that_never_was(module: ModuleType) -> None:
    with pytest.raises(AttributeError, match="module 'made_up' has no attribute 'never'"):
        _ = module.never
    assert not hasattr(module, "never")
    with pytest.raises(ImportError, match="never"):
        from made_up import never  # noqa: F401


@pytest.mark.parametrize("call", [lambda x: scaled(x, heat=2.0), lambda x: scaled(keys=x, temperature=2.0)])
def test_an_old_argument_is_the_new_one_and_warns_where_it_is_passed(call) -> None:
    with pytest.warns(DeprecationWarning, match="is deprecated") as caught:
        result = call(torch.tensor([4.0]))
    assert result.item() == 2.0
    assert [(w.filename, w.lineno) for w in caught] == [(__file__, call.__code__.co_firstlineno)]


def test_what_an_old_argument_says() -> None:
    expected = r"^scaled\(heat=\) is deprecated and will be removed in version 0\.3; use temperature=$"
    with pytest.warns(DeprecationWarning, match=expected):
        scaled(torch.ones(1), heat=2.0)


def test_new_arguments_do_not_warn() -> None:  # warnings are errors here
    assert scaled(torch.tensor([4.0]), temperature=2.0).item() == 2.0


def test_both_names_at_once() -> None:
    with pytest.raises(TypeError, match="temperature must be given once, but it came as heat too; drop heat"):
        scaled(torch.ones(1), heat=2.0, temperature=2.0)


def test_an_argument_that_never_was() -> None:
    with pytest.raises(TypeError, match="never"):
        scaled(torch.ones(1), never=1)


def test_the_signature_shows_the_new_names() -> None:
    assert list(inspect.signature(scaled).parameters) == ["values", "temperature"]
    assert (scaled.__name__, scaled.__doc__) == ("scaled", "values / temperature.")


def test_new_arguments_compile_whole() -> None:
    compiled = torch.compile(lambda x: scaled(x, temperature=2.0), fullgraph=True, backend="eager")
    assert compiled(torch.tensor([4.0])).item() == 2.0


def test_warn_renamed_names_the_caller_of_its_caller() -> None:
    def public() -> None:
        warn_renamed("a", "b", removal="0.3")

    with pytest.warns(DeprecationWarning, match="a is deprecated") as caught:
        _, line = public(), here()
    assert [(w.filename, w.lineno) for w in caught] == [(__file__, line)]
