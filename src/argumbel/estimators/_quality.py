"""How good is each estimator on a problem of yours? Bias, variance, direction and cost, measured side by side."""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .._core.checks import check_logits
from ..noise import KeyedNoise, fresh_seed
from ._common import Loss, call, check_problem, one_hot
from ._enumeration import exact
from ._score_function import reinforce_loo

__all__ = ["Report", "Row", "report"]

Estimator = Callable[..., Tensor]

ENUMERATED = 1 << 24  # numbers in all joint outcomes together, up to which the exact gradient is worth its memory
AT_ONCE = 1 << 16  # numbers in the samples of one call: what f makes of them should fit the cache
REFERENCE_SAMPLES = 64  # of each repeat of the long run
SECONDS = 0.05  # of timing for each estimator


@dataclass(frozen=True)
class Row:
    """What was measured of one estimator; all figures are None where it does not apply, and ``reason`` says why."""

    label: str
    num_samples: int | None = None
    calls: int | None = None  # of f, in one estimate
    samples: int | None = None  # in all these calls
    relaxed: int | None = None  # of these samples, how many were not one-hot
    bias: float | None = None  # || E g - exact ||, noise taken off; None without an exact gradient
    stderr: float | None = None  # || . || of the error of the mean gradient
    variance: float | None = None  # trace of the covariance of g
    cosine: float | None = None  # between the mean gradient and the exact one
    mean_cosine: float | None = None  # between one gradient and the exact one, on average
    seconds: float | None = None  # an estimate and its gradient, median
    reason: str | None = None
    mean: Tensor | None = field(default=None, repr=False, compare=False)  # gradient, in the shape of logits
    variances: Tensor | None = field(default=None, repr=False, compare=False)  # of each component, in that shape

    @property
    def variance_time(self) -> float | None:
        """Variance times seconds: how long the mean of many estimates takes to reach variance 1. Lower is better."""
        return None if self.variance is None or self.seconds is None else self.variance * self.seconds

    def to_dict(self) -> dict[str, Any]:
        """Numbers and texts, without the tensors."""
        numbers = {name: value for name, value in vars(self).items() if name not in ("mean", "variances")}
        return numbers | {"variance_time": self.variance_time}


@dataclass(frozen=True)
class Report:
    """Rows in the order asked for; ``print(report)`` is a table, ``report["reinforce"]`` a row.

    Example:
        >>> import torch
        >>> from argumbel import estimators
        >>> r = estimators.report(lambda z: z[..., 0], torch.zeros(2), ["exact", "arm"], num_repeats=10)
        >>> r["exact"].variance, r["arm"].calls
        (0.0, 1)
    """

    rows: tuple[Row, ...]
    num_repeats: int
    enumerated: bool  # whether `reference` is exact; else it is the mean of a long unbiased run
    reference_error: float  # relative to its norm, of that mean; 0 if exact
    reference: Tensor = field(repr=False, compare=False)

    def __getitem__(self, label: str) -> Row:
        for row in self.rows:
            if row.label == label:
                return row
        raise KeyError(label)

    @property
    def measured(self) -> list[Row]:
        """Without the rows of estimators that do not apply."""
        return [row for row in self.rows if row.reason is None]

    def to_dict(self) -> dict[str, Any]:
        """What ``json.dumps`` takes."""
        return {
            "num_repeats": self.num_repeats,
            "enumerated": self.enumerated,
            "reference_error": self.reference_error,
            "rows": [row.to_dict() for row in self.rows],
        }

    def to_markdown(self) -> str:
        """The table in Markdown."""
        head, *rows = self._cells()
        rule = ["---", *["---:"] * (len(head) - 1)]
        lines = [f"| {' | '.join(cells)} |" for cells in [head, rule, *rows]]
        return "\n".join([*lines, "", *(f"- {line}" for line in self._remarks())])

    def __str__(self) -> str:
        table = self._cells()
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        layout = "  ".join(f"{{:{'>' if i else '<'}{width}}}" for i, width in enumerate(widths))
        lines = [layout.format(*cells) for cells in table]
        return "\n".join([*lines, "", *self._remarks()])

    def _cells(self) -> list[list[str]]:
        head = ["estimator", "bias", "variance", "cos(mean)", "mean cos", "f calls", "samples", "time", "var x time"]
        return [
            head,
            *(
                [
                    row.label,
                    "-" if row.bias is None else f"{_number(row.bias)} ± {_number(row.stderr)}",
                    _number(row.variance),
                    _cosine_text(row.cosine),
                    _cosine_text(row.mean_cosine),
                    str(row.calls),
                    f"{row.samples} ({row.relaxed} relaxed)" if row.relaxed else str(row.samples),
                    _time_text(row.seconds),
                    _number(row.variance_time),
                ]
                for row in self.measured
            ),
        ]

    def _remarks(self) -> list[str]:
        if self.enumerated:
            against = "bias, cosines: against the exact gradient"
        else:
            against = (
                "no bias, for the exact gradient is not known; cosines: against the mean of a long run of "
                f"reinforce_loo (relative error {self.reference_error:.2g})"
            )
        missing = [f"{row.label} does not apply: {row.reason}" for row in self.rows if row.reason is not None]
        return [f"{self.num_repeats} repeats; {against}", *missing]


def report(
    f: Loss,
    logits: Tensor,
    estimators: Iterable[str | Estimator | tuple[str, Estimator]] | None = None,
    *,
    num_repeats: int = 1000,
    num_samples: int = 2,
    generator: torch.Generator | None = None,
    reference: Tensor | None = None,
    chunk: int | None = None,
) -> Report:
    """``|| E g - exact ||``, ``tr Cov g``, ``cos(E g, exact)`` and the cost of g, for the gradient g of each estimator.

    The gradient is that of the summed losses for logits; it is compared with the exact one, from enumeration. Where
    there are too many joint outcomes for that, there is no bias, and the cosines are against the mean of num_repeats
    estimates of :func:`reinforce_loo` with 64 samples each. A *keyed* measurement: all estimators see the same noise,
    and the figures (but for times) depend on neither ``chunk`` nor the other estimators in the list.

    The **bias** is the square root of ``|| mean - exact ||^2`` less what noise adds to it, or 0 where that is negative.
    Its standard error is at most ``sqrt(variance / num_repeats)``, which is what is given.

    Args:
        f: as the estimators take it. It may be called on any number of samples: those of many repeats lie side by side.
            If it depends on logits by itself, that part of the gradient is not counted.
        logits: shape ``(*batch, *factors, n)``.
        estimators: names in ``ESTIMATORS``, functions of their signature, or pairs of a label and one of these;
            arguments by ``functools.partial(gumbel_rao, num_conditional=100)``. Default: the whole registry. What does
            not apply (two items only, f refuses relaxed samples, ...) is listed with the reason.
        num_repeats: independent estimates of each, at least 2.
        num_samples: of each estimate, unless a partial sets it. Some estimators need two, or pairs.
        generator: two 64-bit seeds are drawn from it; default PyTorch's global generator.
        reference: the exact gradient, where you know it; in the shape of logits.
        chunk: how many repeats are estimated at once, for the memory that f needs. Default: by the size of logits.

    Returns:
        A ``Report``; its ``rows`` hold the figures, also the mean gradient and the variance of each component.
        ``print`` it, or take ``to_markdown()`` or ``to_dict()``.

    Raises:
        ValueError: an unknown name, a label twice, num_repeats < 2, bad logits, losses or reference of another shape.
        TypeError: logits, losses or estimators of another type.

    Example:
        >>> import torch
        >>> from argumbel import estimators
        >>> generator = torch.Generator().manual_seed(0)
        >>> toy = lambda z: (z[..., 1] - 0.45) ** 2
        >>> names = ["reinforce", "disarm", "gumbel_softmax"]
        >>> r = estimators.report(toy, torch.tensor([0.0, 1.0]), names, generator=generator)
        >>> [row.label for row in r.rows if row.bias < 5 * row.stderr]  # no bias to be seen
        ['reinforce', 'disarm']
        >>> r["disarm"].variance < r["reinforce"].variance
        True

    Source: Tucker et al. 2017 (REBAR), whose toy problem and variances this extends; Paulus, Maddison and Krause 2021.
    """
    check_logits(logits)
    for name, value, least in (("num_repeats", num_repeats, 2), ("chunk", 1 if chunk is None else chunk, 1)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an integer, but it is a {type(value).__name__}")
        if value < least:
            raise ValueError(f"{name} must be at least {least}, but it is {value}")
    check_problem(f, logits, num_samples)
    listed = _listed(estimators)
    x = logits.detach()
    # Once as it is, so that a fault of f is not taken for an estimator that does not apply.
    loss = call(f, one_hot(x.argmax(-1), x).expand(2, *x.shape), x)
    seed, other = (int(fresh_seed(generator, None if generator is None else generator.device)) for _ in range(2))
    enumerated, error = reference is not None, 0.0
    if reference is not None:
        if reference.shape != x.shape:
            raise ValueError(
                f"reference must have the shape of logits, {tuple(x.shape)}, but its shape is {tuple(reference.shape)}"
            )
        reference = reference.detach().double()
    elif x.shape[-1] ** math.prod(x.shape[loss.ndim - 1 : -1]) * x.numel() <= ENUMERATED:
        enumerated = True
        reference = _gradients(exact, f, x, range(1), 1, seed)[0]
    else:
        reference, variances, _ = _moments(reinforce_loo, f, x, REFERENCE_SAMPLES, num_repeats, chunk, other)
        error = float((variances.sum() / num_repeats).sqrt() / reference.norm())
    rows, moves = [], bool(reference.norm() > 0)  # else there is no direction to compare with
    for label, estimator in listed:
        try:
            cost = _cost(estimator, f, x, num_samples)
        except (ValueError, TypeError, RuntimeError) as reason:
            rows.append(Row(label, reason=" ".join(str(reason).split())))
            continue
        repeats = 1 if _function(estimator) is exact else num_repeats
        mean, variances, mean_cosine = _moments(estimator, f, x, num_samples, repeats, chunk, seed, reference)
        variance = float(variances.sum())
        distance = float(((mean - reference) ** 2).sum())
        rows.append(
            Row(
                label,
                **cost,
                bias=math.sqrt(max(0.0, distance - variance / repeats)) if enumerated else None,
                stderr=math.sqrt(variance / repeats),
                variance=variance,
                cosine=_cosines(mean.unsqueeze(0), reference).item() if moves else None,
                mean_cosine=mean_cosine if moves else None,
                mean=mean,
                variances=variances,
            )
        )
    return Report(tuple(rows), num_repeats, enumerated, error, reference)


def _listed(estimators: Iterable[str | Estimator | tuple[str, Estimator]] | None) -> list[tuple[str, Estimator]]:
    """Labels and functions, checked."""
    from . import ESTIMATORS

    listed: list[tuple[str, Estimator]] = []
    for one in ESTIMATORS if estimators is None else estimators:
        label, estimator = one if isinstance(one, tuple) and len(one) == 2 else (None, one)
        if isinstance(estimator, str):
            if estimator not in ESTIMATORS:
                raise ValueError(f"estimators must be among {', '.join(ESTIMATORS)}, or functions; got {estimator!r}")
            label, estimator = label or estimator, ESTIMATORS[estimator]
        if not callable(estimator) or not (label is None or isinstance(label, str)):
            raise TypeError(f"estimators must be names, functions, or pairs of a label and a function; got {one!r}")
        listed.append((label or _name(estimator), estimator))
    labels = [label for label, _ in listed]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"estimators must have different labels, but {label!r} is there twice; pass pairs")
    if not listed:
        raise ValueError("estimators must name at least one")
    return listed


def _function(estimator: Estimator) -> Estimator:
    """Without what `functools.partial` added."""
    return estimator.func if isinstance(estimator, functools.partial) else estimator


def _name(estimator: Estimator) -> str:
    name = getattr(_function(estimator), "__name__", type(estimator).__name__)
    if not isinstance(estimator, functools.partial):
        return name
    return f"{name}({', '.join(f'{key}={value}' for key, value in estimator.keywords.items())})"


def _samples(estimator: Estimator, num_samples: int) -> int:
    """What the partial says, or else the report."""
    return getattr(estimator, "keywords", {}).get("num_samples", num_samples)


def _cost(estimator: Estimator, f: Loss, logits: Tensor, num_samples: int) -> dict[str, Any]:
    """Calls of f and seconds of one estimate; raises what the estimator raises if it does not apply."""
    x = logits.clone().requires_grad_()
    num_samples = _samples(estimator, num_samples)
    seen: list[tuple[int, int]] = []

    def counted(z: Tensor) -> Tensor:
        fixed = z.detach()
        apart = ((fixed != 0) & (fixed != 1)).flatten(1).any(-1)
        seen.append((len(fixed), int(apart.sum())))
        return f(z)

    def once(f: Loss) -> None:
        value = estimator(f, x, num_samples=num_samples)
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value.sum(), x, allow_unused=True)
        if not value.requires_grad or gradient is None:
            raise ValueError("f has no gradient with respect to its samples")
        if x.device.type == "cuda":
            torch.cuda.synchronize()

    with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
        once(counted)
        taken: list[float] = []
        while len(taken) < 3 or (sum(taken) < SECONDS and len(taken) < 1000):
            start = time.perf_counter()
            once(f)
            taken.append(time.perf_counter() - start)
    return {
        "num_samples": num_samples,
        "calls": len(seen),
        "samples": sum(n for n, _ in seen),
        "relaxed": sum(r for _, r in seen),
        "seconds": statistics.median(taken),
    }


def _moments(
    estimator: Estimator,
    f: Loss,
    logits: Tensor,
    num_samples: int,
    num_repeats: int,
    chunk: int | None,
    seed: int,
    reference: Tensor | None = None,
) -> tuple[Tensor, Tensor, float]:
    """Mean and variance of each component over independent estimates, and their mean cosine to the reference."""
    chunk = chunk or max(1, AT_ONCE // max(1, _samples(estimator, num_samples) * logits.numel()))
    total = squares = torch.zeros_like(logits, dtype=torch.float64)
    shift, cosines = total, 0.0
    for start in range(0, num_repeats, chunk):
        repeats = range(start, min(start + chunk, num_repeats))
        gradients = _gradients(estimator, f, logits, repeats, num_samples, seed)
        if start == 0:
            shift = gradients[0]  # sums of differences do not cancel
        total = total + (gradients - shift).sum(0)
        squares = squares + ((gradients - shift) ** 2).sum(0)
        if reference is not None:
            cosines += float(_cosines(gradients, reference).sum())
    variances = (squares - total**2 / num_repeats).clamp(min=0) / max(1, num_repeats - 1)
    return shift + total / num_repeats, variances, cosines / num_repeats


def _gradients(estimator: Estimator, f: Loss, logits: Tensor, repeats: range, num_samples: int, seed: int) -> Tensor:
    """An estimate for each repeat, of shape ``(len(repeats), *logits.shape)``, in float64.

    Repeats are one more batch dimension for the estimator, and more samples for f, which takes any number of these.
    """
    x = logits.expand(len(repeats), *logits.shape).clone().requires_grad_()
    num_samples = _samples(estimator, num_samples)

    def folded(z: Tensor) -> Tensor:
        return f(z.flatten(0, 1)).unflatten(0, z.shape[:2])

    # Each repeat has rows of noise of its own, whichever repeats it is estimated with.
    rows = torch.arange(num_samples * math.prod(logits.shape[:-1]), device=logits.device)
    rows = rows.reshape(num_samples, 1, *logits.shape[:-1])
    first = torch.tensor(repeats, device=logits.device).reshape(-1, *[1] * (logits.ndim - 1))
    noise = KeyedNoise(seed, rows=rows + first * rows.numel())
    value = estimator(folded, x, num_samples=num_samples, noise=noise)
    return torch.autograd.grad(value.sum(), x)[0].double()


def _cosines(gradients: Tensor, reference: Tensor) -> Tensor:
    """Of the angle between each gradient and the reference; 0 for a gradient of zero."""
    g, r = gradients.flatten(1), reference.flatten()
    cosines = (g @ r) / (torch.linalg.vector_norm(g, dim=-1) * r.norm()).clamp(min=torch.finfo(g.dtype).tiny)
    return cosines.clamp(-1, 1)


def _number(x: float | None) -> str:
    return "-" if x is None else f"{x:.3g}"


def _cosine_text(x: float | None) -> str:
    return "-" if x is None else f"{x:.3f}"


def _time_text(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1e6:.3g} µs" if seconds < 1e-3 else f"{seconds * 1e3:.3g} ms"
