"""Compile the Triton kernels for a GPU that need not be there, and print what the machine code says: one JSON a line.

``python -m tests.ptx``, in a process of its own: ``TRITON_INTERPRET`` must not be set.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from argumbel.kernels.law import LAW_RACES
from argumbel.kernels.triton import law, linear, order, posterior, race, softmax, topk, without_replacement
from argumbel.kernels.triton import noise as tiles

INT, LONG, FLOAT, HALF = "i32", "*i64", "*fp32", "*bf16"
KEY = {"seed": LONG, "seeds": None, "rows": None, "items": None, "stride": INT}
IDS = {**KEY, "seeds": LONG, "rows": LONG, "items": LONG}
SIZES = dict.fromkeys(
    ("lines", "n", "blocks", "groups", "parts", "steps", "depth", "count", "sources", "x_stride", "grad_stride"), INT
)
SIZES |= dict.fromkeys(("tau_stride", "hidden_stride", "weight_stride"), INT)
SIZES |= dict.fromkeys(("k", "tiles", "runs", "run", "pairs", "size"), INT)
RELAX = {"x": HALF, "grad": None, "tau": FLOAT, "out": HALF, "tops": FLOAT, "winners": LONG, "totals": FLOAT}
RELAX |= {"rests": FLOAT, "dots": FLOAT, **KEY}
HEAD = {"hidden": HALF, "weight": HALF, "bias": FLOAT, "tau": "fp32", **KEY}
PRODUCT = {"PRECISION": "ieee", "FEW": linear.FEW, "BLOCK": linear.BLOCK, "DEPTH": 64}
WINNERS = {"values": FLOAT, "indices": LONG}
WEIGHED = {"tops": FLOAT, "rests": FLOAT}
ENTRIES = {"keys": LONG, "items_kept": "*i32", "values": None, "indices": None}
FIRST = {"keys": None, "items_kept": None, "values": HALF, "indices": LONG}
GIVEN = {"x": HALF, "indices": LONG, "given": None, "heights": FLOAT, "out": FLOAT}


class Case(NamedTuple):
    """A kernel, the types of its arguments beside those of SIZES (None: the argument is None), and its constants."""

    kernel: Any
    types: dict[str, Any]
    constants: dict[str, Any]
    warps: int = 4  # with which the kernel is launched
    only_noise_fused: bool = False  # one number of noise for each place of a tile, and no other multiply-add is fused


CASES = [
    Case(tiles.fill, {"out": FLOAT, **KEY}, {"LAW": "gumbel", "ROWS": 1, "BLOCK": 1024}, only_noise_fused=True),
    Case(tiles.fill, {"out": HALF, **IDS}, {"LAW": "logistic", "ROWS": 4, "BLOCK": 128}, only_noise_fused=True),
    Case(
        race._race,
        {"x": HALF, "values": FLOAT, "rests": FLOAT, "indices": LONG, **KEY},
        {"OWN": 0, "FINAL": False, "ROWS": 1, "BLOCK": race.BLOCK},
        warps=1,
        only_noise_fused=True,
    ),
    Case(
        race._race,
        {"x": FLOAT, **WINNERS, "rests": None, **IDS},
        {"OWN": LAW_RACES["categorical"], "FINAL": True, "ROWS": 8, "BLOCK": 16},
        warps=1,
        only_noise_fused=True,
    ),
    Case(
        race._settle,
        {"part_values": FLOAT, "part_rests": FLOAT, "part_indices": LONG, "values": HALF, "indices": LONG},
        {"ROWS": 16, "BLOCK": 32},
    ),
    Case(
        topk._perturb,
        {"x": HALF, **ENTRIES, **KEY},
        {"OWN": 0, "FINAL": False, "K": 2, "ROWS": 1, "BLOCK": 1024},
        only_noise_fused=True,
    ),
    Case(
        topk._perturb,
        {"x": FLOAT, **FIRST, **IDS},
        {"OWN": LAW_RACES["sample_without_replacement"], "FINAL": True, "K": 4, "ROWS": 32, "BLOCK": 16},
        only_noise_fused=True,
    ),
    Case(
        topk._heights,
        {"x": HALF, "keys": LONG, "items_kept": "*i32", **KEY},
        {"OWN": 0, "GROUP": 32, "BLOCK": 1024},
        only_noise_fused=True,
    ),
    Case(
        topk._again,
        {"x": HALF, "chosen": LONG, **FIRST, **KEY},
        {"OWN": 0, "FINAL": True, "K": 2, "GROUP": 64, "BLOCK": 1024},
        only_noise_fused=True,
    ),
    Case(
        order._select,
        {"keys": LONG, "items": "*i32", "kept_keys": LONG, "kept_items": "*i32", "values": None, "indices": None},
        {"FINAL": False, "K": 16, "ROWS": 1, "BLOCK": 256},
    ),
    Case(
        order._select,
        {"keys": LONG, "items": "*i32", "kept_keys": None, "kept_items": None, "values": None, "indices": LONG},
        {"FINAL": True, "K": 2, "ROWS": 4, "BLOCK": 128},
    ),
    Case(
        order._merge,
        {"keys": LONG, "items": "*i32", "kept_keys": None, "kept_items": None, **WINNERS},
        {"FINAL": True, "BLOCK": 1024},
    ),
    Case(
        without_replacement._weigh_groups,
        {"x": HALF, "keys": LONG, "items": "*i32", "heights": FLOAT, "seed": LONG},
        {"GROUP": 64, "BLOCK": 1024},
    ),
    Case(
        without_replacement._reopen,
        {"x": HALF, "chosen": LONG, "heights": FLOAT, "keys": None, "items": None, **WINNERS, "seed": LONG},
        {"FINAL": True, "K": 2, "GROUP": 16, "BLOCK": 256},
    ),
    Case(posterior._whole, {**GIVEN, **KEY}, {"ROWS": 8, "BLOCK": 128}),
    Case(posterior._settle_height, {**GIVEN, **WEIGHED, **KEY}, {"TILE": 1024}),
    Case(posterior._settle_height, {**GIVEN, **WEIGHED, "given": FLOAT, **IDS}, {"TILE": 16}),
    Case(posterior._truncate, {**GIVEN, **KEY}, {"BLOCK": 1024}),
    Case(law._weigh, {"x": HALF, **WEIGHED}, {"GROUP": law.GROUP, "BLOCK": law.BLOCK}),
    Case(
        law._draw,
        {"x": HALF, **WEIGHED, "draws": LONG, "log_z": "*fp64", "seed": LONG},
        {"ROWS": 1, "TILE": 128, "BLOCK": 1024},
    ),
    Case(softmax._whole, RELAX, {"HARD": False, "ROWS": 8, "BLOCK": 128}),
    Case(softmax._whole, {**RELAX, "grad": HALF, "tau": "fp32"}, {"HARD": True, "ROWS": 8, "BLOCK": 128}),
    Case(softmax._measure, {**RELAX, "grad": HALF}, {"BLOCK": softmax.BLOCK}),
    Case(softmax._write, RELAX, {"HARD": True, "PARTS": 64, "BLOCK": softmax.BLOCK}),
    Case(softmax._write, {**RELAX, "grad": HALF, "seed": None}, {"HARD": False, "PARTS": 64, "BLOCK": softmax.BLOCK}),
    Case(
        linear._product,
        {**HEAD, "first": FLOAT, "second": FLOAT, "third": None, "seed": None},
        {"LAW": True, "ROWS": 16, **PRODUCT},
    ),
    Case(
        linear._product,
        {**HEAD, "first": FLOAT, "second": FLOAT, "third": LONG},
        {"LAW": False, "ROWS": 64, **PRODUCT},
        warps=8,
    ),
    Case(
        linear._draw,
        {**HEAD, **WEIGHED, "draws": LONG, "heights": FLOAT},
        {"FEW": linear.FEW, "TILE": 1024, "DEPTH": 512},
        warps=8,
    ),
]


def main() -> None:
    for kernel, types, constants, warps, only_noise_fused in CASES:
        given = SIZES | types
        constants = constants | {name: None for name in kernel.arg_names if given.get(name, INT) is None}
        signature = {name: "constexpr" if name in constants else given[name] for name in kernel.arg_names}
        places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
        compiled = triton.compile(
            ASTSource(kernel, signature, places),
            target=GPUTarget("cuda", 90, 32),
            options={"num_warps": warps, "enable_fp_fusion": False},
        )
        ptx = compiled.asm["ptx"]
        found = {
            "kernel": f"{kernel.__module__.rpartition('.')[2]}.{kernel.__name__}",
            "numbers": constants.get("ROWS", 1) * constants.get("BLOCK", 0) // (32 * warps),
            "only_noise_fused": only_noise_fused,
            "fused": len(re.findall(r"\bfma\.rn\.f32\b", ptx)),
            "flushing": len(re.findall(r"\b(fma|mul|add|sub)(\.rn)?\.ftz\.f32\b", ptx)),
            "binary": len(compiled.asm["cubin"]),
        }
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
