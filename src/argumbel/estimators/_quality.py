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

from .._core.checks import check_logits, count
from ..noise import KeyedNoise, fresh_seed
from ._common import Loss, call, check_problem, one_hot
from ._enumeration import exact
from ._score_function import reinforce_loo

__all__ = ["Report", "ReportRow", "report"]

Estimator = Callable[..., Tensor]

MAX_ENUMERATED = 1 << 24  # numbers in all joint outcomes together, up to which the exact gradient is worth its memory
CHUNK_NUMBERS = 1 << 16  # numbers in the samples of one call: what f makes of them should fit the cache
REFERENCE_SAMPLES = 64  # samples in each repeat of the long run
SECONDS = 0.05  # time spent on timing each estimator


@dataclass(frozen=True)
class ReportRow:
    """What :func:`report` measured of one estimator. Where the estimator does not apply, all figures are None and
    ``reason`` says why.

    Example:
        >>> import torch
        >>> from argumbel import estimators
        >>> row = estimators.report(lambda z: z[..., 0], torch.zeros(2), ["exact"], num_repeats=10)["exact"]
        >>> row.label, row.bias, row.calls
        ('exact', 0.0, 2)
    """

    label: str
    num_samples: int | None = None
    calls: int | None = None  # calls of f in one estimate
    samples: int | None = None  # samples in all these calls
    relaxed: int | None = None  # how many of these samples were not one-hot
    bias: float | None = None  # || E g - exact ||, less what noise adds; None without an exact gradient
    stderr: float | None = None  # norm of the standard error of the mean gradient
    variance: float | None = None  # trace of the covariance of g
    cosine: float | None = None  # cosine between the mean gradient and the exact gradient
    mean_cosine: float | None = None  # mean of the cosines between each single gradient and the exact gradient
    seconds: float | None = None  # median time of an estimate and its gradient
    reason: str | None = None  # why the estimator does not apply
    mean: Tensor | None = field(default=None, repr=False, compare=False)  # mean gradient, in the shape of logits
    variances: Tensor | None = field(default=None, repr=False, compare=False)  # variance of each component of g

    @property
    def variance_time(self) -> float | None:
        """Variance times seconds: the time in which the mean of many estimates reaches variance 1. Lower is better."""
        return None if self.variance is None or self.seconds is None else self.variance * self.seconds

    def to_dict(self) -> dict[str, Any]:
        """Numbers and texts, without the tensors."""
        numbers = {name: value for name, value in vars(self).items() if name not in ("mean", "variances")}
        return numbers | {"variance_time": self.variance_time}


@dataclass(frozen=True)
class Report:
    """What :func:`report` returns: a row for each estimator, in the order asked for.

    ``print(report)`` shows a table; ``report["reinforce"]`` is the row with that label.

    Example:
        >>> import torch
        >>> from argumbel import estimators
        >>> r = estimators.report(lambda z: z[..., 0], torch.zeros(2), ["exact", "arm"], num_repeats=10)
        >>> r["exact"].variance, r["arm"].calls
        (0.0, 1)
    """

    rows: tuple[ReportRow, ...]
    num_repeats: int
    enumerated: bool  # whether `reference` is exact; if not, it is the mean of a long unbiased run
    reference_error: float  # error of that mean, relative to its norm; 0 if `reference` is exact
    reference: Tensor = field(repr=False, compare=False)

    def __getitem__(self, label: str) -> ReportRow:
        for row in self.rows:
            if row.label == label:
                return row
        raise KeyError(f"label must be one of {[row.label for row in self.rows]}, but it is {label!r}; see .rows")

    @property
    def measured(self) -> list[ReportRow]:
        """The rows of the estimators that apply."""
        return [row for row in self.rows if row.reason is None]

    def to_dict(self) -> dict[str, Any]:
        """Numbers and texts, in the form that ``json.dumps`` takes."""
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
                "no bias, because the exact gradient is not known; cosines: against the mean of a long run of "
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
    reference: Tensor | None = None,
    chunk: int | None = None,
    generator: torch.Generator | None = None,
) -> Report:
    """``|| E g - exact ||``, ``tr Cov g``, ``cos(E g, exact)`` and the cost of g, for the gradient g of each estimator.

    g is the gradient of the summed losses for logits. It is compared with the exact gradient, from enumeration. Where
    there are too many joint outcomes to enumerate, no bias is given, and the cosines are against the mean of
    num_repeats estimates of :func:`reinforce_loo` with 64 samples each. A *keyed* measurement: all estimators see the
    same noise, and the figures (other than times) depend neither on ``chunk`` nor on the other estimators in the list.

    The **bias** is the square root of ``|| mean - exact ||^2`` less what noise adds to that square, or 0 where the
    difference is negative. Its standard error is at most ``sqrt(variance / num_repeats)``, and this bound is given.

    Args:
        f: a function from one-hot samples of shape ``(s, *batch, *factors, n)`` to losses of shape ``(s, *batch)``, for
            any number s: the samples of many repeats are passed in one call. The dimensions that f sums away,
            ``*factors``, are independent factors of one joint choice. If f depends on logits other than by its
            samples, that part of the gradient is not counted.
        logits: scores of the items, shape ``(*batch, *factors, n)``, any floating dtype; -inf forbids an item.
        estimators: names in ``ESTIMATORS``, functions with the signature of an estimator, or pairs of a label and a
            name or function. Give arguments by ``functools.partial(gumbel_rao, num_conditional=100)``. Default: all of
            ``ESTIMATORS``. An estimator that does not apply (it takes two items only, f refuses relaxed samples, ...)
            is listed with the reason.
        num_repeats: the number of independent estimates of each estimator, at least 2.
        num_samples: the number of samples of each estimate, unless a partial sets it. Some estimators need two, or an
            even number.
        reference: the exact gradient where you know it, in the shape of logits.
        chunk: the number of repeats that are estimated at once; f needs memory for them. Default: by the size of
            logits.
        generator: a ``torch.Generator``; two 64-bit seeds are drawn from it. Default: PyTorch's global generator.

    Returns:
        A ``Report``. Its ``rows`` hold the figures, the mean gradient, and the variance of each component. ``print``
        it, or call its ``to_markdown()`` or ``to_dict()``.

    Raises:
        ValueError: an unknown name; a label twice; num_repeats < 2; NaN, +inf or a row without an allowed item in
            logits; losses or reference of another shape.
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
    num_repeats = count("num_repeats", num_repeats, least=2)
    chunk = None if chunk is None else count("chunk", chunk, least=1)
    num_samples = check_problem(f, logits, num_samples)
    listed = _listed(estimators)
    x = logits.detach()
    # f is called once by itself, so that a fault of f is not taken for an estimator that does not apply.
    loss = call(f, one_hot(x.argmax(-1), x).expand(2, *x.shape), x)
    seed, reference_seed = (
        int(fresh_seed(generator, None if generator is None else generator.device)) for _ in range(2)
    )
    enumerated, error = reference is not None, 0.0
    if reference is not None:
        if reference.shape != x.shape:
            raise ValueError(
                f"reference must have the shape of logits, {tuple(x.shape)}, but its shape is "
                f"{tuple(reference.shape)}; pass the gradient for logits"
            )
        reference = reference.detach().double()
    elif x.shape[-1] ** math.prod(x.shape[loss.ndim - 1 : -1]) * x.numel() <= MAX_ENUMERATED:
        enumerated = True
        reference = _gradients(exact, f, x, range(1), 1, seed)[0]
    else:
        reference, variances, _ = _moments(reinforce_loo, f, x, REFERENCE_SAMPLES, num_repeats, chunk, reference_seed)
        error = float((variances.sum() / num_repeats).sqrt() / reference.norm())
    rows, has_direction = [], bool(reference.norm() > 0)
    for label, estimator in listed:
        try:
            cost = _cost(estimator, f, x, num_samples)
        except (ValueError, TypeError, RuntimeError) as reason:
            rows.append(ReportRow(label, reason=" ".join(str(reason).split())))
            continue
        repeats = 1 if _function(estimator) is exact else num_repeats
        mean, variances, mean_cosine = _moments(estimator, f, x, num_samples, repeats, chunk, seed, reference)
        variance = float(variances.sum())
        distance = float(((mean - reference) ** 2).sum())
        rows.append(
            ReportRow(
                label,
                **cost,
                bias=math.sqrt(max(0.0, distance - variance / repeats)) if enumerated else None,
                stderr=math.sqrt(variance / repeats),
                variance=variance,
                cosine=_cosines(mean.unsqueeze(0), reference).item() if has_direction else None,
                mean_cosine=mean_cosine if has_direction else None,
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
                raise ValueError(
                    f"estimators must be among {', '.join(ESTIMATORS)}, or functions, but one is {estimator!r}; pass a "
                    "name of estimators.ESTIMATORS"
                )
            label, estimator = label or estimator, ESTIMATORS[estimator]
        if not callable(estimator) or not (label is None or isinstance(label, str)):
            raise TypeError(
                f"estimators must be names, functions, or pairs of a label and a function, but one is {one!r}; pass a "
                "name of estimators.ESTIMATORS"
            )
        listed.append((label or _name(estimator), estimator))
    labels = [label for label, _ in listed]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(
                f"estimators must have different labels, but {label!r} is there twice; pass pairs of a label and a "
                "function"
            )
    if not listed:
        raise ValueError("estimators must name at least one, but it is empty; pass None for all")
    return listed


def _function(estimator: Estimator) -> Estimator:
    """The function inside a `functools.partial`."""
    return estimator.func if isinstance(estimator, functools.partial) else estimator


def _name(estimator: Estimator) -> str:
    name = getattr(_function(estimator), "__name__", type(estimator).__name__)
    if not isinstance(estimator, functools.partial):
        return name
    return f"{name}({', '.join(f'{argument}={value}' for argument, value in estimator.keywords.items())})"


def _samples(estimator: Estimator, num_samples: int) -> int:
    """num_samples of the partial, if it has one, or else of the report."""
    return getattr(estimator, "keywords", {}).get("num_samples", num_samples)


def _cost(estimator: Estimator, f: Loss, logits: Tensor, num_samples: int) -> dict[str, Any]:
    """Calls of f and seconds of one estimate; raises the error of an estimator that does not apply."""
    x = logits.clone().requires_grad_()
    num_samples = _samples(estimator, num_samples)
    seen: list[tuple[int, int]] = []

    def counted(z: Tensor) -> Tensor:
        fixed = z.detach()
        relaxed = ((fixed != 0) & (fixed != 1)).flatten(1).any(-1)
        seen.append((len(fixed), int(relaxed.sum())))
        return f(z)

    def once(f: Loss) -> None:
        value = estimator(f, x, num_samples=num_samples)
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value.sum(), x, allow_unused=True)
        if not value.requires_grad or gradient is None:
            raise ValueError(
                "f must have a gradient with respect to its samples, but it has none; leave out estimators that use it"
            )
        if x.device.type == "cuda":
            torch.cuda.synchronize()

    with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
        once(counted)
        times: list[float] = []
        while len(times) < 3 or (sum(times) < SECONDS and len(times) < 1000):
            start = time.perf_counter()
            once(f)
            times.append(time.perf_counter() - start)
    return {
        "num_samples": num_samples,
        "calls": len(seen),
        "samples": sum(n for n, _ in seen),
        "relaxed": sum(r for _, r in seen),
        "seconds": statistics.median(times),
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
    """Mean and variance of each component over independent estimates, and the mean cosine to the reference."""
    chunk = chunk or max(1, CHUNK_NUMBERS // max(1, _samples(estimator, num_samples) * logits.numel()))
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
    """An estimate for each repeat, shape ``(len(repeats), *batch, *factors, n)``, in float64.

    For the estimator the repeats are one more batch dimension; for f, which takes any number of samples, they are more
    samples.
    """
    x = logits.expand(len(repeats), *logits.shape).clone().requires_grad_()
    num_samples = _samples(estimator, num_samples)

    def folded(z: Tensor) -> Tensor:
        return f(z.flatten(0, 1)).unflatten(0, z.shape[:2])

    # Each repeat has its own rows of noise, whichever other repeats are estimated with it.
    rows = torch.arange(num_samples * math.prod(logits.shape[:-1]), device=logits.device)
    rows = rows.reshape(num_samples, 1, *logits.shape[:-1])
    first = torch.tensor(repeats, device=logits.device).reshape(-1, *[1] * (logits.ndim - 1))
    noise = KeyedNoise(seed, rows=rows + first * rows.numel())
    value = estimator(folded, x, num_samples=num_samples, noise=noise)
    return torch.autograd.grad(value.sum(), x)[0].double()


def _cosines(gradients: Tensor, reference: Tensor) -> Tensor:
    """The cosine of the angle between each gradient and the reference; 0 for a gradient of zero."""
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
