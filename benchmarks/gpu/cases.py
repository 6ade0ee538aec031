"""What is measured on a GPU: operations at sizes, and the ratios wanted. To add a benchmark, add a line here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from ..ops import OPS
from ..peers import Peer
from ..problem import Size
from ..registry import Case, Target
from .peers import ARGMAX, F_COMPILED, PEERS, RACE, RACE_HALF

BATCHES = (1, 8, 64, 256, 1024)
VOCABULARIES = (128_256, 32_000, 256_000)  # of Llama 3, Llama 2, Gemma: 128k first, since targets are about it
QWEN, DEPTH = 151_936, 4096
HALF, SINGLE = torch.bfloat16, torch.float32
BIG = (256, 128_256)

#: How often an operation has to read or write as many numbers as there are logits, if not once. Backward: the sample
#: and the gradient that comes in are read, a gradient is written.
PASSES = {"gumbel_softmax": 2, "gumbel_softmax + backward": 5}


@dataclass(frozen=True)
class GpuCase(Case):
    @property
    def peers(self) -> list[Peer]:
        # Of interest beside a target, and hardly worth its compilation elsewhere.
        without = set() if self.targets and self.size.dtype == HALF else {RACE_HALF}
        return [peer for peer in PEERS[self.op.name] if peer.name not in without]

    @property
    def bytes(self) -> int:
        """What has to be read and written at least."""
        size = self.size
        if size.depth:
            numbers = size.depth * (size.shape[-1] + size.elements // size.shape[-1])
        else:
            numbers = size.elements * PASSES.get(self.op.name, 1)
        return numbers * size.dtype.itemsize

    def tiny(self) -> GpuCase:
        """For a dry run."""
        size, batch = self.size, min(self.size.shape[0], 3)
        shape = (batch, 200) if len(size.shape) > 1 else (4096,)
        small = dataclasses.replace(size, shape=shape, k=min(size.k, 5), depth=min(size.depth, 16))
        return dataclasses.replace(self, size=small)


GRID = [Size((batch, n), dtype) for n in VOCABULARIES for dtype in (HALF, SINGLE) for batch in BATCHES]


def _cases(op: str, sizes: Iterable[Size], wanted: dict[str, float] | None = None) -> list[GpuCase]:
    """``wanted`` at the size that targets are about, in both dtypes."""
    targets = tuple(Target((name,), ratio) for name, ratio in (wanted or {}).items())
    return [GpuCase(OPS[op], size, targets if size.shape == BIG else ()) for size in sizes]


def _linear(batch: int, at_least: float) -> GpuCase:
    size = Size((batch, QWEN), HALF, depth=DEPTH)
    return GpuCase(OPS["linear_categorical"], size, (Target((), at_least),))


_ALL: list[GpuCase] = [
    GpuCase(OPS["categorical"], Size(BIG, HALF), (Target((ARGMAX,), 0.8), Target((RACE,), 3))),
    *(_linear(batch, 1) for batch in (1, 8, 64)),
    _linear(256, 0.95),
    *_cases("gumbel_max", GRID, {ARGMAX: 0.5}),
    *_cases("gumbel_softmax", GRID, {F_COMPILED: 1.5}),
    *_cases("gumbel_softmax + backward", GRID, {F_COMPILED: 1.5}),
    *_cases("categorical", [size for size in GRID if size != Size(BIG, HALF)]),
    *_cases("linear_categorical", [Size((8, QWEN), SINGLE, depth=DEPTH)]),
    *_cases("linear_gumbel_max", [Size((batch, QWEN), HALF, depth=DEPTH) for batch in (1, 8, 64, 256)]),
    *_cases("noise", [Size((1 << 26,), dtype) for dtype in (SINGLE, HALF)]),
    *_cases("gumbel_topk", [Size((batch, 128_256), HALF, k=50) for batch in (8, 256)]),
]
# A run that is out of time leaves out what stands last: other vocabularies than 128k, then what no target is about.
CASES = sorted(_ALL, key=lambda case: (not case.targets, case.size.shape[-1] in (32_000, 256_000)))

#: As CUDA graphs, where launches are most of the time.
REPLAYED = [
    GpuCase(OPS[op], Size((batch, 128_256), HALF))
    for op in ("categorical", "gumbel_max", "gumbel_softmax")
    for batch in (1, 8)
] + [GpuCase(OPS["linear_categorical"], Size((batch, QWEN), HALF, depth=DEPTH)) for batch in (1, 8)]


def select(cases: Iterable[GpuCase], words: Iterable[str], tiny: bool = False) -> list[GpuCase]:
    """The cases whose name contains one of the words; all of them where there are no words. Tiny ones are all of
    different sizes."""
    words = list(words)
    found = [case.tiny() if tiny else case for case in cases]
    chosen = [case for case in found if not words or any(word in case.name for word in words)]
    return list({case.name: case for case in reversed(chosen)}.values())[::-1]
