"""A gradient estimator as text names it: ``reinmax``, or ``gumbel_rao(num_conditional=100)``."""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..estimators import ESTIMATORS
from ..noise import KeyedNoise

__all__ = ["Estimator", "parse"]


class Estimator(nn.Module):
    """The estimator that ``text`` names, with those of its arguments that the text gives.

    An estimator with a temperature takes the one of the call, unless the text fixes it. The eta and tau of ``rebar``
    are parameters instead, and get the gradient of its variance.

    >>> Estimator("gumbel_rao(num_conditional=100)").own
    {'num_conditional': 100}
    >>> [name for name, _ in Estimator("rebar(eta=1.0)").named_parameters()]
    ['log_tau']
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.name, self.own = parse(text)
        defaults = _arguments(self.name)
        self.num_samples: int = self.own.get("num_samples", defaults["num_samples"])
        self.takes_tau = "tau" in defaults and "tau" not in self.own and self.name != "rebar"
        if self.name == "rebar":
            for argument in ("eta", "tau"):
                if argument not in self.own:
                    start = torch.tensor(math.log(defaults[argument]))
                    self.register_parameter(f"log_{argument}", nn.Parameter(start))

    def forward(
        self,
        f: Callable[[Tensor], Tensor],
        logits: Tensor,
        *,
        tau: float,
        generator: torch.Generator | None = None,
        noise: KeyedNoise | None = None,
    ) -> Tensor:
        tuned = {name.removeprefix("log_"): value.exp() for name, value in self.named_parameters()}
        given = {"tau": tau} if self.takes_tau else {}
        return ESTIMATORS[self.name](f, logits, generator=generator, noise=noise, **self.own, **tuned, **given)


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """The name and the arguments in ``name`` or ``name(argument=literal, ...)``.

    Raises:
        ValueError: text of another form, a name that is not in :data:`argumbel.estimators.ESTIMATORS`, an argument that
            the estimator does not take, or a value that is not a literal number or text.

    >>> parse("stratified(num_samples=4, method='antithetic')")
    ('stratified', {'num_samples': 4, 'method': 'antithetic'})
    """
    form = f"estimator must be a name, or a name with arguments as gumbel_rao(num_conditional=100); got {text!r}"
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        raise ValueError(form) from None
    keywords = tree.keywords if isinstance(tree, ast.Call) and not tree.args else []
    head = tree.func if isinstance(tree, ast.Call) and not tree.args else tree
    if not isinstance(head, ast.Name):
        raise ValueError(form)
    if head.id not in ESTIMATORS:
        raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}; got {head.id!r}")
    known, own = _arguments(head.id), {}
    for keyword in keywords:
        if keyword.arg not in known:
            raise ValueError(f"estimator {head.id} takes {', '.join(known)}; got {keyword.arg!r} in {text!r}")
        try:
            value = ast.literal_eval(keyword.value)
        except ValueError:
            value = None
        switch = isinstance(known[keyword.arg], bool)
        if isinstance(value, bool) != switch or not isinstance(value, (int, float, str)):
            kind = "True or False" if switch else "a number or a quoted text"
            raise ValueError(f"{keyword.arg} of estimator {head.id} must be {kind}; got {text!r}")
        own[keyword.arg] = value
    count = own.get("num_samples", 1)
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"num_samples of estimator {head.id} must be a whole number, 1 or more; got {count!r}")
    return head.id, own


def _arguments(name: str) -> dict[str, Any]:
    """What the text may give of an estimator's arguments, and their defaults."""
    parameters = inspect.signature(ESTIMATORS[name]).parameters.values()
    return {
        p.name: p.default
        for p in parameters
        if p.kind is inspect.Parameter.KEYWORD_ONLY and p.name not in ("generator", "noise")
    }
