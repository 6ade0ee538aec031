"""Differentiate: share six jobs among three servers, so that the last server is done as early as possible.

Which server gets a job is a discrete choice. The time jumps when a job moves, so it has no derivative. The *expected*
time, over random choices, has a derivative with respect to their logits. To estimate it, times of whole plans suffice.

Run it with: python examples/differentiate.py
"""

import itertools

import torch
from torch import Tensor
from torch.nn.functional import one_hot

import argumbel as ag

LENGTHS = torch.tensor([9.0, 7.0, 6.0, 4.0, 3.0, 1.0])
SPEEDS = torch.tensor([3.0, 2.0, 1.0])


def finished(plans: Tensor) -> Tensor:
    """When all is done. One-hot plans of shape (num_samples, 6, 3) to times, (num_samples,)."""
    load = (plans * LENGTHS[:, None]).sum(-2)  # of each server
    return (load / SPEEDS).amax(-1)


torch.manual_seed(0)
logits = torch.zeros(6, 3, requires_grad=True)

# Which estimator suits this loss? Bias, variance and cost of each, against the exact gradient over all 729 plans.
names = ["reinforce", "reinforce_loo", "stratified", "softmax_straight_through"]
print(ag.estimators.report(finished, logits, names, num_samples=4, num_repeats=400))

optimiser = torch.optim.Adam([logits], lr=0.05)
for step in range(301):
    time = ag.estimators.reinforce_loo(finished, logits, num_samples=16)
    optimiser.zero_grad()
    time.backward()
    optimiser.step()
    if step % 100 == 0:
        print(f"step {step:3}   mean time of 16 plans {time.item():.2f}")

plan = logits.argmax(-1)
for server, speed in enumerate(SPEEDS.tolist()):
    jobs = LENGTHS[plan == server].tolist()
    print(f"Server of speed {speed:.0f}: jobs of length", *(f"{length:.0f}" for length in jobs))
every = one_hot(torch.tensor(list(itertools.product(range(3), repeat=6))), 3)
best = finished(every).min().item()
reached = finished(one_hot(plan, 3)[None]).item()
print(f"Done after {reached:.2f}; the best of all 729 plans is done after {best:.2f}")
assert reached <= 1.2 * best  # the search is local: another seed may end a little above the best
