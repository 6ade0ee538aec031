"""Sample: new town names, one letter at a time, and three winners of a raffle.

Run it with: python examples/sample.py
"""

import string

import torch

import argumbel as ag

TOWNS = """
    amsterdam antwerp athens barcelona belgrade berlin bern bologna bratislava bremen brussels bucharest budapest
    cologne copenhagen dresden dublin edinburgh florence geneva genoa glasgow gothenburg hamburg helsinki krakow leipzig
    lisbon liverpool london lyon madrid malaga manchester marseille milan munich naples oslo palermo paris porto prague
    riga rome rotterdam seville sofia stockholm stuttgart tallinn turin valencia venice vienna vilnius warsaw zurich
"""
LETTERS = "." + string.ascii_lowercase  # "." stands before the first letter and after the last

# A model of letters: row a of logits holds the log frequencies of the letters that follow a.
counts = torch.full((27, 27), 0.01)
for town in TOWNS.split():
    for first, second in zip(f".{town}", f"{town}.", strict=True):
        counts[LETTERS.index(first), LETTERS.index(second)] += 1
logits = counts.log()


def write(rows: list[int], temperature: float) -> list[str]:
    """One name per row. The noise of a letter depends on its place and its row alone, not on the other rows."""
    letter, names = torch.zeros(len(rows), dtype=torch.int64), [""] * len(rows)
    for place in range(12):
        noise = ag.KeyedNoise(seed=place, rows=rows)
        letter = ag.gumbel_max(logits[letter] / temperature, noise=noise).indices
        names = [name if name.endswith(".") else name + LETTERS[i] for name, i in zip(names, letter, strict=True)]
    return [name.rstrip(".").capitalize() for name in names]


for temperature in (0.5, 1.0):
    print(f"New names at temperature {temperature}:", *write([0, 1, 2, 3, 4, 5], temperature))
print("The third name, drawn alone:", *write([2], 1.0))
assert write([2], 1.0)[0] == write([0, 1, 2, 3, 4, 5], 1.0)[2]

# Draws with replacement: 1000 towns start with these letters most often.
torch.manual_seed(0)
starts = ag.categorical(logits[0], (1000,))
print("Most frequent first letters:", *(LETTERS[i] for i in starts.bincount(minlength=27).topk(5).indices))

# Draws without replacement: nobody wins two prizes, and who holds more tickets wins sooner.
tickets = {"Ada": 40, "Boris": 10, "Chen": 25, "Dalia": 5, "Emeka": 20}
log_weights = torch.tensor(list(tickets.values()), dtype=torch.float32).log()
winners = ag.sample_without_replacement(log_weights, 3).indices
print("Prizes go to:", *(list(tickets)[i] for i in winners))

# How likely each of them was to win one of the three prizes.
chances = ag.inclusion_probs(log_weights, 3)
print("Chances of a prize:", ", ".join(f"{name} {chance:.0%}" for name, chance in zip(tickets, chances, strict=True)))
