"""A linear layer whose outputs are logits: its parts, the checks of its parts, and the score of one item."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding

from .._core.checks import can_raise, check_temperature, floating, one_or_rows
from .._core.modes import has_autocast
from ..kernels.linear import divisor
from ..noise import work_dtype

__all__ = ["Layer", "layer_of", "score", "sound"]


class Layer(NamedTuple):
    """The parts that make logits: ``(hidden @ weight.T + bias) / temperature``."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    temperature: float | Tensor

    def detach(self) -> Layer:
        """What logits are made of, without a gradient: under autocast hidden and weight of different dtypes are both in
        its dtype, as ``torch.nn.functional.linear`` takes them."""
        hidden, weight = self.hidden.detach(), self.weight.detach()
        if hidden.dtype != weight.dtype:
            dtype = torch.get_autocast_dtype(hidden.device.type)
            hidden, weight = hidden.to(dtype), weight.to(dtype)
        bias = None if self.bias is None else self.bias.detach()
        own = self.temperature
        return Layer(hidden, weight, bias, own.detach() if isinstance(own, Tensor) else own)


def layer_of(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float | Tensor) -> Layer:
    for name, part in (("hidden", hidden), ("weight", weight), ("bias", bias)):
        if part is None and name == "bias":
            continue
        x = floating(name, part)
        if x.device != hidden.device:
            raise ValueError(
                f"{name} must be on the device of hidden, {hidden.device}, but it is on {x.device}; "
                f"pass {name}.to(hidden.device)"
            )
    if hidden.ndim == 0:
        raise ValueError(
            "hidden must have at least one dimension, the features, but it has none; pass hidden.reshape(1)"
        )
    if weight.ndim != 2 or weight.shape[1] != hidden.shape[-1] or weight.shape[0] == 0:
        raise ValueError(
            f"weight must have a row for each item, at least one, and a column for each of the {hidden.shape[-1]} "
            f"features of hidden, but its shape is {tuple(weight.shape)}; pass the weight of a torch.nn.Linear"
        )
    if weight.dtype != hidden.dtype and not _is_cast(hidden, weight):
        raise TypeError(
            f"weight must have the dtype of hidden, {hidden.dtype}, but it is {weight.dtype}; "
            "pass hidden.to(weight.dtype), or call under torch.autocast"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"bias must have a number for each item, the shape ({weight.shape[0]},), but its shape is "
            f"{tuple(bias.shape)}; pass the bias of the torch.nn.Linear"
        )
    temperature = check_temperature(temperature, hidden, "hidden")
    if isinstance(temperature, Tensor):
        temperature = temperature.to(hidden.device, work_dtype(hidden.dtype))
    return Layer(hidden, weight, bias, temperature)


def _is_cast(hidden: Tensor, weight: Tensor) -> bool:
    """Whether autocast brings the two to one dtype; it leaves float64 as it is."""
    device = hidden.device.type
    if torch.float64 in (hidden.dtype, weight.dtype) or not has_autocast(device):
        return False
    return torch.is_autocast_enabled(device)


def score(layer: Layer, noise: Tensor | None, index: Tensor) -> Tensor:
    """The logit of the winner (plus its noise), computed again so that it has a gradient."""
    hidden, weight, bias, temperature = layer
    work = work_dtype(hidden.dtype)
    score = (hidden.to(work) * embedding(index, weight).to(work)).sum(-1)  # no weight[index], which vmap(grad) refuses
    if bias is not None:
        score = score + embedding(index, bias.unsqueeze(-1)).squeeze(-1).to(work)
    scale, greedily = divisor(one_or_rows(temperature, hidden, work).to(hidden.device))
    if scale is not None:
        score = score / scale
    if noise is None or greedily is True:
        return score
    own = noise.gather(-1, index.unsqueeze(-1)).squeeze(-1)
    return score + (own if greedily is None else own.masked_fill(greedily, 0))


def sound(values: Tensor, indices: Tensor, layer: Layer, noise: object) -> tuple[Tensor, Tensor]:
    """Values and indices. A bad row raises an error, or becomes NaN and -1 where values may not be looked at."""
    bad = ~values.isfinite()
    if not can_raise(bad):
        return values.masked_fill(bad, torch.nan), indices.masked_fill(bad, -1)
    if bool(bad.any()):
        hidden, weight, bias, _ = layer
        for name, x in (("hidden", hidden), ("weight", weight), ("noise", noise)):
            if isinstance(x, Tensor) and not bool(x.isfinite().all()):
                raise ValueError(f"{name} must be finite, but some of it is not; find where it comes from")
        if bias is not None and not bool((bias < torch.inf).all()):
            raise ValueError("bias must not be NaN or +inf, but some of it is; to forbid an item, make its bias -inf")
        if bias is not None and bool((bias == -torch.inf).all()):
            raise ValueError("bias must allow at least one item, but it is -inf throughout; give an item a finite bias")
        raise ValueError(
            f"logits, (hidden @ weight.T + bias) / temperature, must be finite in {work_dtype(hidden.dtype)}, but some "
            "overflow; scale hidden or weight down, or raise the temperature"
        )
    return values, indices
