"""What all distributions here share: the generator, checked parameters, and a temperature that broadcasts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.constraint_registry import biject_to, transform_to
from torch.distributions.transforms import SoftmaxTransform, StickBreakingTransform, Transform

from .._core.checks import broadcasts_to, broadcasts_with, can_raise, floating, number, sizes
from .._core.modes import is_eager
from ..noise import work_dtype

__all__ = ["Relaxed", "Reparameterized", "floor", "simplex"]

Size = torch.Size | list[int] | tuple[int, ...] | int


def floor(dtype: torch.dtype) -> float:
    """The least positive number a sample may hold: the smallest normal number, which stays when denormals are flushed
    to zero. The normal numbers of float16 end at 6e-5, so there it is the smallest positive number, 6e-8."""
    return 2.0**-24 if dtype == torch.float16 else torch.finfo(dtype).tiny


class Simplex(type(constraints.simplex)):  # type: ignore[misc]
    """Nonnegative, with sum 1 within the rounding of the values' dtype, or of the coarser dtype they were rounded to.

    (torch's own simplex allows an error of 1e-6, whatever the dtype and the number of entries; correct samples exceed
    it.)
    """

    def __init__(self, origin: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.origin = origin

    def check(self, value: Tensor) -> Tensor:
        n, total = value.shape[-1], value.sum(-1, dtype=work_dtype(value.dtype))
        coarsest = max(value.dtype, self.origin, key=lambda dtype: torch.finfo(dtype).eps)
        # Each entry is rounded in proportion to itself, which makes eps in all, or raised to the floor. Adding up n
        # numbers rounds too.
        rounding = 4 * torch.finfo(coarsest).eps + n * floor(coarsest)
        adding = (8 + n**0.5) * torch.finfo(total.dtype).eps
        return (value >= 0).all(-1) & ((total - 1).abs() <= max(1e-6, rounding + adding))

    def __repr__(self) -> str:
        return "Simplex()"


simplex = Simplex()


@biject_to.register(Simplex)
def _biject_to_simplex(constraint: Simplex) -> Transform:
    return StickBreakingTransform()


@transform_to.register(Simplex)
def _transform_to_simplex(constraint: Simplex) -> Transform:
    return SoftmaxTransform()


class Reparameterized(Distribution):
    """A distribution whose `sample` is its `rsample` without a gradient, both with a `generator`."""

    has_rsample = True

    def rsample(self, sample_shape: Size = (), *, generator: torch.Generator | None = None) -> Tensor:
        raise NotImplementedError

    def sample(self, sample_shape: Size = (), *, generator: torch.Generator | None = None) -> Tensor:
        """`rsample` without a gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape, generator=generator)

    def _extended_shape(self, sample_shape: Size = ()) -> torch.Size:
        return super()._extended_shape(torch.Size(sizes("sample_shape", sample_shape)))

    def _init_checked(self, batch_shape: Size, event_shape: Size, validate_args: bool | None) -> None:
        """Distribution.__init__, for arguments that are checked already."""
        batch_shape = torch.Size(sizes("batch_shape", batch_shape))
        event_shape = torch.Size(sizes("event_shape", event_shape))
        # Not super(): the class of torch that a class here extends would be asked to build its own base_dist.
        Distribution.__init__(self, batch_shape, event_shape, validate_args=False)
        self._validate_args = wants_checks(validate_args)

    def _value(self, value: Any, like: Tensor) -> Tensor:
        """value, checked, as a floating tensor; a number, integers and booleans take the dtype of like."""
        if isinstance(value, Tensor) and not value.dtype.is_floating_point and not value.dtype.is_complex:
            value = value.to(like.dtype)
        elif not isinstance(value, Tensor):
            value = like.new_tensor(float(number("value", value, expected="a tensor or a number")))
        if self._validate_args:
            self._validate_sample(value)
        return value

    def _probability(self, value: Any, like: Tensor) -> Tensor:
        """value as :meth:`_value`, for icdf."""
        value = value if isinstance(value, Tensor) else like.new_tensor(float(number("value", value)))
        if self._validate_args:
            check("value", value, (value >= 0) & (value <= 1), "a probability, in [0, 1]", "clamp it")
        return value if value.dtype.is_floating_point else value.to(like.dtype)

    def _validate_sample(self, value: Tensor) -> None:
        whole = self.batch_shape + self.event_shape
        events = len(self.event_shape)
        if not (broadcasts_with(value.shape, whole) and value.shape[value.ndim - events :] == self.event_shape):
            raise ValueError(
                f"value must broadcast to batch_shape + event_shape, {tuple(whole)}, with its last {events} dimensions "
                f"as they are, but its shape is {tuple(value.shape)}; reshape it"
            )
        if can_raise(value) and value.numel():
            check = self.support.check(value)  # type: ignore[union-attr]
            if not bool(check.all()):
                raise ValueError(
                    f"value must lie in the support {self.support} of {self!r}, but {first_bad(value, check)}; "
                    "validate_args=False turns this check off"
                )


class computed_once:
    """An attribute that is computed when it is first asked for, with a gradient, and then kept.

    As torch's ``lazy_property``; but what inference mode, fake tensors, a transform or a tracer compute is of no use
    outside of them, so it is not kept.
    """

    def __init__(self, compute: Callable[[Any], Tensor]) -> None:
        self.compute = compute
        functools.update_wrapper(self, compute)  # type: ignore[arg-type]

    def __get__(self, instance: Any, owner: type | None = None) -> Tensor:
        if instance is None:
            return self  # type: ignore[return-value]
        if torch.compiler.is_compiling():
            return self.compute(instance)
        with torch.enable_grad():
            value = self.compute(instance)
        if is_eager() and not torch.is_inference_mode_enabled():
            vars(instance)[self.compute.__name__] = value
        return value


Other = TypeVar("Other", bound="Relaxed")
Either = TypeVar("Either", bound=Distribution)
Another = TypeVar("Another", bound=Distribution)


class Relaxed(Reparameterized):
    """A temperature (``tau`` in the functions of argumbel) and exactly one of probs and logits.

    The last `_event_dims` dimensions of probs or logits are the categories; the temperature broadcasts against the
    others, the *batch* shape. All work is done in float32 or float64 (`_scores`, `_tau`); samples are cast back to the
    dtype of the parameter.
    """

    _event_dims: ClassVar[int]
    _temperature: Tensor
    _param: Tensor
    _given: str

    def __init__(
        self,
        temperature: Tensor | float,
        probs: Tensor | float | None = None,
        logits: Tensor | float | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if (probs is None) == (logits is None):
            raise ValueError(
                "exactly one of probs and logits must be given, but "
                f"{'neither' if probs is None else 'both'} came; pass probs=, or logits= (log probs up to a constant)"
            )
        self._given = "logits" if probs is None else "probs"
        if isinstance(temperature, Tensor) and not (temperature.is_floating_point() or temperature.is_complex()):
            temperature = temperature.to(torch.get_default_dtype())  # as torch does
        param, tau = as_tensors({self._given: logits if probs is None else probs, "temperature": temperature})
        # A number is not rounded to half precision: work is done in float32.
        temperature = (
            tau if isinstance(temperature, Tensor) else tau.new_tensor(temperature, dtype=work_dtype(tau.dtype))
        )
        if param.ndim < self._event_dims:
            raise ValueError(
                f"{self._given} must have the categories as its last dimension, but it is a scalar; "
                f"for a choice between two use RelaxedBernoulli"
            )
        if temperature.ndim == 0:
            temperature = temperature.to(param.device)
        batch = param.shape[: param.ndim - self._event_dims]
        if self._event_dims and temperature.ndim == param.ndim and temperature.shape[-1] == 1:
            temperature = _without_categories(temperature, batch)
        try:
            batch_shape = torch.broadcast_shapes(temperature.shape, batch)
        except RuntimeError:
            raise ValueError(
                f"temperature must broadcast against the batch shape {tuple(batch)} of {self._given} (its shape "
                f"{tuple(param.shape)} without the categories), but its shape is {tuple(temperature.shape)}; for one "
                f"temperature per distribution pass a tensor of shape {tuple(batch)}"
            ) from None
        if wants_checks(validate_args):
            self._check_param(param)
            check_positive("temperature", temperature, "pass 0.1 for a small one, or use argumbel.categorical")
        self._fill(temperature, self._prepare(param), batch_shape, validate_args)

    def _fill(self, temperature: Tensor, param: Tensor, batch_shape: torch.Size, validate_args: bool | None) -> None:
        event_shape = param.shape[param.ndim - self._event_dims :]
        self._temperature = temperature.expand(batch_shape)
        self._param = param.expand(batch_shape + event_shape)
        self._init_checked(batch_shape, event_shape, validate_args)

    def expand(self, batch_shape: Size, _instance: Any = None) -> Self:
        """The same distribution for a larger batch; no memory is copied."""
        new = self._get_checked_instance(Relaxed, _instance)
        new._given = self._given
        new._fill(self.temperature, self._param, torch.Size(sizes("batch_shape", batch_shape)), self._validate_args)
        return new

    def _check_param(self, param: Tensor) -> None:
        raise NotImplementedError

    def _prepare(self, param: Tensor) -> Tensor:
        return param

    @property
    def temperature(self) -> Tensor:
        """What divides the perturbed logits, in the batch shape."""
        return self._temperature

    @property
    def param_shape(self) -> torch.Size:
        """Shape of probs and logits: batch_shape + event_shape."""
        return self._param.shape

    @property
    def _work(self) -> torch.dtype:
        return work_dtype(self._param.dtype)

    @property
    def _tau(self) -> Tensor:
        tau = self.temperature.to(self._work)
        return tau.unsqueeze(-1) if self._event_dims else tau

    def _result(self, result: Tensor, value: Tensor | None = None) -> Tensor:
        """result, cast from the working dtype to the dtype of the parameter and the value."""
        dtype = self._param.dtype
        return result.to(dtype if value is None else torch.promote_types(dtype, value.dtype))

    def _as(self, cls: type[Other]) -> Other:
        """A distribution of another class with the same parameters."""
        other = object.__new__(cls)
        other.__dict__.update(self.__dict__)
        return other

    def __repr__(self) -> str:
        def show(x: Tensor) -> str:
            return f"{x.item():g}" if x.numel() == 1 and can_raise(x) else f"{tuple(x.shape)}"

        return f"{type(self).__name__}(temperature: {show(self.temperature)}, {self._given}: {show(self._param)})"


def _without_categories(temperature: Tensor, batch: torch.Size) -> Tensor:
    """A temperature with a dimension of size 1 for the categories, as torch writes it, without this dimension, where
    nothing else can be meant."""
    rows = temperature.shape[:-1]
    if temperature.numel() == 1:
        return temperature.squeeze(-1)
    if not broadcasts_to(rows, batch):
        return temperature
    try:
        every = torch.broadcast_shapes(temperature.shape, batch)
    except RuntimeError:
        return temperature.squeeze(-1)
    raise ValueError(
        f"temperature must have one meaning, but with the batch shape {tuple(batch)} the shape "
        f"{tuple(temperature.shape)} has two; for one temperature for each row (torch's meaning) pass "
        f"temperature.squeeze(-1), for every temperature with every row pass temperature.expand{tuple(every)}"
    )


def with_one_batch(p: Either, q: Another) -> tuple[Either, Another]:
    """p and q, expanded to one batch shape."""
    shape = torch.broadcast_shapes(p.batch_shape, q.batch_shape)
    return p.expand(shape), q.expand(shape)


def wants_checks(validate_args: bool | None) -> bool:
    return Distribution._validate_args if validate_args is None else validate_args


def as_tensors(given: dict[str, Any]) -> list[Tensor]:
    """The values as floating tensors; a number takes the dtype and device of the first tensor."""
    tensors = [x for x in given.values() if isinstance(x, Tensor)]
    like = tensors[0] if tensors else torch.zeros(())
    return [
        floating(name, x)
        if isinstance(x, Tensor)
        else like.new_tensor(float(number(name, x, expected="a tensor or a number")))
        for name, x in given.items()
    ]


def check_positive(name: str, value: Tensor, remedy: str) -> None:
    check(name, value, (value > 0) & (value < torch.inf), "positive and finite", remedy)


def check(name: str, value: Tensor, ok: Tensor, expected: str, remedy: str) -> None:
    if can_raise(value) and not bool(ok.all()):
        raise ValueError(f"{name} must be {expected}, but {first_bad(value, ok)}; {remedy}")


def first_bad(value: Tensor, ok: Tensor) -> str:
    """The first place where value is not ok, and the entry there, shortened."""
    index = tuple((~ok).nonzero()[0].tolist())
    what = value.detach()[(..., *index, *[slice(None)] * (value.ndim - ok.ndim))] if ok.ndim else value.detach()
    shown = str(what.tolist() if what.numel() <= 6 else [*what.flatten()[:5].tolist(), "..."])
    where = f"the entry at {list(index)}" if index else "it"
    return f"{where} is {shown}"
