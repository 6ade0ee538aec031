"""The scores of the golden numbers of structures, all float64, and the comparison with a number that was rounded."""

from __future__ import annotations

import torch
from torch import Tensor

from .structure_oracles import chain_scores


def row(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def check_golden(value: Tensor | float, *golden: float, digits: int = 6) -> None:
    """Equal to the golden numbers, all of which were rounded to so many digits."""
    torch.testing.assert_close(torch.as_tensor(value).flatten(), row(*golden), rtol=0, atol=0.501 * 10**-digits)


K4 = row(0.5, -1, 0.3, 0, 1.2, -0.7)
ROOTED = torch.tensor([[0, -0.7, -0.7, -0.3], [0, 0, 0.9, 1.2], [0, 0, 0, 0.5], [0, 0.3, 0.6, 0]], dtype=torch.float64)
FOUR = row(0.9, -0.3, 1.5, 0.2)
FIVE = row(0.5, -1, 0.3, 0, 1.2)
PAIRS = row(0.7, -0.5, 0.4, 1)
UNARY = torch.tensor([[0.2, -0.5, 0.8], [0, 0.6, -0.3], [1, -0.2, 0.1], [-0.4, 0.3, 0.5]], dtype=torch.float64)
TRANSITION = torch.tensor([[0.9, -0.6, 0], [-0.2, 0.4, 0.7], [0.3, -1, 0.5]], dtype=torch.float64)
WORDS = torch.tensor([[0, 0.4, -0.3, 0.6], [0, 0, 0.9, -0.5], [0, 0.2, 0, 1.1], [0, -0.8, 0.7, 0]], dtype=torch.float64)
SPANS = torch.tensor([[0, 0.5, -0.2, 0], [0, 0, 0.8, -0.6], [0, 0, 0, 0.3], [0, 0, 0, 0]], dtype=torch.float64)
SQUARE = torch.tensor([[0.5, -0.3, 0.1], [0.2, 0.8, -0.6], [-0.4, 0, 1]], dtype=torch.float64)
CHAIN = chain_scores(UNARY, TRANSITION)
