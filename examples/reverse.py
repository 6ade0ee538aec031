"""Reverse: a shop showed each visitor one of four offers; which would the same visitors have seen under new rules?

The offer was drawn at random, and the log holds only what was shown. The noise behind each draw can be drawn again,
given what was shown. Replayed under the new probabilities, it tells what would have been shown instead.

Run it with: python examples/reverse.py
"""

import torch

import argumbel as ag

torch.manual_seed(0)
OFFERS = ["books", "games", "tools", "wine"]
old = torch.tensor([0.40, 0.30, 0.20, 0.10]).log()
new = torch.tensor([0.40, 0.10, 0.20, 0.30]).log()  # fewer games, more wine

shown = ag.categorical(old, (10_000,))  # the log
logits, new_logits = old.expand(10_000, 4), new.expand(10_000, 4)
would = ag.counterfactual(logits, shown, new_logits)[0]

print("Of 100 visitors, by what they saw (rows) and would have seen (columns):")
print(f"{'':8}" + "".join(f"{name:>8}" for name in OFFERS))
flow = torch.zeros(4, 4).index_put((shown, would), torch.tensor(0.01), accumulate=True)
for name, row in zip(OFFERS, flow, strict=True):
    print(f"{name:8}" + "".join(f"{share:8.1f}" for share in row.tolist()))

# Whoever saw wine would see wine again: no other offer has become more likely beside it.
assert (would[shown == 3] == 3).all()

# How close each draw was: the noise, given what was shown, as logits + noise.
values = ag.posterior_gumbel(logits, shown)
first, second = values.topk(2).values.unbind(-1)
print(f"Within 0.1 of another offer: {((first - second) < 0.1).float().mean():.0%} of the visitors")

# What the logits sum to, from the heights of the winners alone: a model's Z, where only its best answer can be found.
maxima = ag.gumbel_max((old + 5).expand(10_000, 4)).values
log_z, stderr = ag.log_partition(maxima)
print(f"log Z: {log_z:.2f} +- {stderr:.2f} from 10,000 winners; exactly {(old + 5).logsumexp(0):.2f}")
