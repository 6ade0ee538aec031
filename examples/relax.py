"""Relax: find the three columns, of twenty, that a quantity depends on.

Which columns to use is a discrete choice, and a discrete choice has no gradient. A relaxed choice has one: while it is
learned, a column may be used a little; as tau falls, it is used or not.

Run it with: python examples/relax.py
"""

import torch

import argumbel as ag

torch.manual_seed(0)
table = torch.randn(512, 20)
target = 2 * table[:, 3] - 3 * table[:, 7] + table[:, 12] + 0.1 * torch.randn(512)

logits = torch.zeros(20, requires_grad=True)  # how much each column is wanted
weight = torch.zeros(20, requires_grad=True)  # how it is used
optimiser = torch.optim.Adam([logits, weight], lr=0.05)

for step in range(401):
    tau = max(0.1, 0.99**step)  # begin soft, end nearly discrete
    used = ag.relaxed_topk(logits.expand(16, 20), k=3, tau=tau)  # 16 choices, each with a sum of 3
    prediction = (used * weight) @ table.T  # (16, 512)
    loss = (prediction - target).square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    if step % 100 == 0:
        print(f"step {step:3}   tau {tau:.2f}   loss {loss.item():6.3f}")

chosen = sorted(logits.topk(3).indices.tolist())
print("Columns chosen:", *chosen, "  with weights:", *(f"{weight[i].item():.2f}" for i in chosen))
print("The truth:      3 7 12  with weights: 2 -3 1")
assert chosen == [3, 7, 12]
