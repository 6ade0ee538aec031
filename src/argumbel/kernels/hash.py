"""XXH64 (the hash function of the xxHash specification) of many strings: names of rows as ids of 64 bits."""

from __future__ import annotations

import itertools
import struct

import torch
from torch import Tensor

from . import cpu

__all__ = ["xxh64"]

MASK = (1 << 64) - 1
A, B, C, D, E = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5


def xxh64(data: Tensor, offsets: Tensor, seed: int) -> Tensor:
    """The hashes, int64 (two's complement), of the strings ``data[offsets[i] : offsets[i + 1]]``.

    Args:
        data: bytes, uint8, contiguous, on the CPU.
        offsets: int64, contiguous, one more than there are strings.
        seed: 64 bits without a sign.
    """
    count = len(offsets) - 1
    if cpu.library is not None:
        out = torch.empty(count, dtype=torch.int64, device="cpu")
        cpu.library.xxh64(data.data_ptr(), offsets.data_ptr(), count, seed, out.data_ptr())
        return out
    whole, ends = bytes(data.tolist()), offsets.tolist()
    hashes = [_reference(whole[a:b], seed) for a, b in itertools.pairwise(ends)]
    return torch.tensor([h - (h >> 63 << 64) for h in hashes], dtype=torch.int64, device="cpu")


def _turn(x: int, bits: int) -> int:
    x &= MASK
    return (x << bits | x >> (64 - bits)) & MASK


def _round(total: int, word: int) -> int:
    return _turn(total + word * B, 31) * A & MASK


def _reference(text: bytes, seed: int) -> int:
    at, end = 0, len(text)
    h = seed + E
    if end >= 32:
        sums = [seed + A + B, seed + B, seed, seed - A]
        for at in range(0, end - 31, 32):
            sums = [_round(s, word) for s, word in zip(sums, struct.unpack_from("<4Q", text, at), strict=True)]
        at += 32
        h = sum(_turn(s, bits) for s, bits in zip(sums, (1, 7, 12, 18), strict=True))
        for s in sums:
            h = ((h ^ _round(0, s)) & MASK) * A + D
    h += end
    while end - at >= 8:
        h = _turn((h & MASK) ^ _round(0, struct.unpack_from("<Q", text, at)[0]), 27) * A + D
        at += 8
    if end - at >= 4:
        h = _turn((h & MASK) ^ struct.unpack_from("<I", text, at)[0] * A & MASK, 23) * B + C
        at += 4
    for byte in text[at:]:
        h = _turn((h & MASK) ^ byte * E & MASK, 11) * A
    h &= MASK
    h = (h ^ h >> 33) * B & MASK
    h = (h ^ h >> 29) * C & MASK
    return h ^ h >> 32
