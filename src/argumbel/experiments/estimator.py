"""A gradient estimator that a text names: ``reinmax``, or ``gumbel_rao(num_conditional=100)``."""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .._core.checks import one_of
from ..estimators import ESTIMATORS
from ..noise import KeyedNoise

__all__ = ["Estimator", "current_name", "parse"]

#: Names that estimators had when run folders were written that should still open.
_FORMER_NAMES = {"straight_through": "softmax_straight_through"}


class Estimator(nn.Module):
    """The estimator that ``text`` names, with the arguments that the text gives.

    An estimator with a tau takes the tau of the call, unless the text gives one. The estimator ``rebar`` is different:
    its eta and tau are parameters, and they get the gradient of the estimator's variance.

    >>> Estimator("gumbel_rao(num_conditional=100)").arguments
    {'num_conditional': 100}
    >>> [name for name, _ in Estimator("rebar(eta=1.0)").named_parameters()]
    ['log_tau']
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.name, self.arguments = parse(text)
        defaults = _arguments(self.name)
        self.num_samples: int = self.arguments.get("num_samples", defaults["num_samples"])
        self.takes_tau = "tau" in defaults and "tau" not in self.arguments and self.name != "rebar"
        if self.name == "rebar":
            for argument in ("eta", "tau"):
                if argument not in self.arguments:
                    start = torch.tensor(math.log(defaults[argument]))
                    self.register_parameter(f"log_{argument}", nn.Parameter(start))

    def forward(
        self,
        f: Callable[[Tensor], Tensor],
        logits: Tensor,
        *,
        tau: float,
        noise: KeyedNoise | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The value of f, whose gradient is the estimate; see :mod:`argumbel.estimators`."""
        learned = {name.removeprefix("log_"): value.exp() for name, value in self.named_parameters()}
        given = {"tau": tau} if self.takes_tau else {}
        return ESTIMATORS[self.name](f, logits, noise=noise, generator=generator, **self.arguments, **learned, **given)


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """The name and the arguments in ``name`` or ``name(argument=literal, ...)``.

    Raises:
        ValueError: the text has another form, the name is not in :data:`argumbel.estimators.ESTIMATORS`, the estimator
            does not take an argument, or a value is not a literal number or text.

    >>> parse("stratified(num_samples=4, method='antithetic')")
    ('stratified', {'num_samples': 4, 'method': 'antithetic'})
    """
    try:
        tree: ast.expr | None = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        tree = None
    keywords = tree.keywords if isinstance(tree, ast.Call) and not tree.args else []
    head = tree.func if isinstance(tree, ast.Call) and not tree.args else tree
    if not isinstance(head, ast.Name):
        raise ValueError(
            f"estimator must be a name, or a name with arguments, but it is {text!r}; write it as "
            "gumbel_rao(num_conditional=100)"
        )
    one_of("estimator", head.id, ESTIMATORS)
    known, given = _arguments(head.id), {}
    for keyword in keywords:
        if keyword.arg not in known:
            raise ValueError(
                f"arguments of estimator {head.id} must be among {', '.join(known)}, but {text!r} has "
                f"{keyword.arg!r}; leave it out"
            )
        try:
            value = ast.literal_eval(keyword.value)
        except ValueError:
            value = None
        switch = isinstance(known[keyword.arg], bool)
        if isinstance(value, bool) != switch or not isinstance(value, (int, float, str)):
            kind = "True or False" if switch else "a number or a quoted text"
            raise ValueError(
                f"{keyword.arg} of estimator {head.id} must be {kind}, but it is {ast.unparse(keyword.value)} in "
                f"{text!r}; write a literal"
            )
        given[keyword.arg] = value
    count = given.get("num_samples", 1)
    if not isinstance(count, int) or count < 1:
        raise ValueError(
            f"num_samples of estimator {head.id} must be an integer, at least 1, but it is {count!r}; give a larger one"
        )
    return head.id, given


def current_name(text: str) -> str:
    """The text with the name that its estimator has today.

    >>> current_name("straight_through(tau=0.5)")
    'softmax_straight_through(tau=0.5)'
    """
    name, bracket, rest = text.partition("(")
    return _FORMER_NAMES.get(name.strip(), name) + bracket + rest


def _arguments(name: str) -> dict[str, Any]:
    """The arguments of an estimator that a text may give, with their defaults."""
    parameters = inspect.signature(ESTIMATORS[name]).parameters.values()
    return {
        p.name: p.default
        for p in parameters
        if p.kind is inspect.Parameter.KEYWORD_ONLY and p.name not in ("noise", "generator")
    }
