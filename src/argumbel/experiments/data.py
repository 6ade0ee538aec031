"""Images for the experiments, held in memory as flat rows of numbers in [0, 1].

There are three sources: ``digits`` (the handwritten digits of scikit-learn, 8x8, without a network), ``mnist`` (a
folder of IDX files, or scikit-learn's ``fetch_openml``), and any ``.npz`` file of images.
"""

from __future__ import annotations

import gzip
import math
import struct
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._core.checks import one_of

__all__ = ["BINARIZE", "Images", "binarize", "bundled_digits", "load", "load_digits", "load_mnist", "load_npz"]

BINARIZE = ("threshold", "static", "dynamic", "none")
_SPLIT_SEED = 20170401  # decides the splits of data that have none; another seed changes every result
_SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Images:
    """Three splits of images, each ``(n, height * width)``: uint8 of 0 and 1 if ``binary``, else float32 in [0, 1]."""

    name: str
    shape: tuple[int, int]
    train: Tensor
    valid: Tensor
    test: Tensor
    binary: bool

    @property
    def pixels(self) -> int:
        return self.shape[0] * self.shape[1]

    def describe(self) -> str:
        kind = "binary" if self.binary else "grey"
        sizes = " / ".join(f"{len(getattr(self, split)):,}" for split in _SPLITS)
        return f"{self.name}: {self.shape[0]}x{self.shape[1]} {kind}, {sizes} images to train / validate / test"


def binarize(images: Images, method: str, *, seed: int) -> Images:
    """Binary images: ``x >= 0.5`` (``threshold``), or ``x > u`` with uniform ``u`` drawn once (``static``).

    ``dynamic`` leaves the training images grey: the training loop draws binary images from them at every step. The
    validation and test images become binary as with ``static``, so that the results of different steps are comparable.
    ``none`` leaves all images grey. Images that are binary already are returned unchanged, by every method. Each split
    has its own random numbers, made from ``seed``.

    Raises:
        ValueError: an unknown method.

    >>> binarize(load_digits(), "threshold", seed=0).binary
    True
    """
    one_of("binarize", method, BINARIZE)
    if images.binary or method == "none":
        return images

    def once(split: int, x: Tensor) -> Tensor:
        if method == "threshold":
            return (x >= 0.5).to(torch.uint8)
        generator = torch.Generator().manual_seed(seed * len(_SPLITS) + split)
        return (x > torch.rand(x.shape, generator=generator)).to(torch.uint8)

    train = images.train if method == "dynamic" else once(0, images.train)
    return Images(
        images.name, images.shape, train, once(1, images.valid), once(2, images.test), binary=method != "dynamic"
    )


def bundled_digits() -> tuple[Any, Any]:
    """The handwritten digits of scikit-learn: grey images in [0, 1], ``(1797, 64)``, and which digit each one is."""
    try:
        from sklearn.datasets import load_digits as bundled  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError(
            "scikit-learn must be installed for the digits, but it is not; pip install 'argumbel[train]'"
        ) from error
    found = bundled()
    return np.asarray(found.data, dtype=np.float32) / 16.0, np.asarray(found.target)


def load_digits() -> Images:
    """The handwritten digits of scikit-learn: 1797 grey images of 8x8, always in the same split, 1197 / 200 / 400."""
    return _assemble("digits", {"train": bundled_digits()[0]}, (8, 8), valid=200, test=400)


def load_mnist(path: Path | None = None) -> Images:
    """MNIST, grey, split 50,000 / 10,000 / 10,000: the last 10,000 training images are the validation images.

    ``path`` is a folder with the IDX files ``train-images-idx3-ubyte`` and ``t10k-images-idx3-ubyte``, gzipped or not.
    Without ``path``, scikit-learn's ``fetch_openml`` downloads MNIST and keeps it.
    """
    if path is not None:
        train, test = _read_idx(path, "train-images-idx3-ubyte"), _read_idx(path, "t10k-images-idx3-ubyte")
    else:
        try:
            from sklearn.datasets import fetch_openml
        except ImportError as error:
            raise ImportError(
                "scikit-learn must be installed to download MNIST, but it is not; pip install 'argumbel[train]', or "
                "give the folder of the IDX files with --data"
            ) from error
        try:
            raw = fetch_openml("mnist_784", version=1, as_frame=False, parser="liac-arff").data
        except OSError as error:
            raise ValueError(
                f"MNIST must be downloaded, but the download failed ({error}); give a folder of its IDX files with "
                "--data PATH"
            ) from error
        rows = np.asarray(raw, dtype=np.uint8).reshape(-1, 28, 28)
        train, test = rows[:60_000], rows[60_000:]
    held_out = min(10_000, len(train) // 6)
    parts = {"train": train[:-held_out], "valid": train[-held_out:], "test": test}
    return _from_arrays("mnist", parts)


def load_npz(path: Path, *, arrays: Sequence[str] = (), name: str | None = None) -> Images:
    """Images from a ``.npz`` file.

    An array is ``(n, height, width)``, or ``(n, pixels)`` of square images. Its dtype is bool, uint8 (0 to 255, or 0
    and 1) or floating (in [0, 1]). Rows of bits packed by ``numpy.packbits`` are recognised: their number of uint8
    words is not a square, but their number of bits is.

    Args:
        path: the file.
        arrays: the names of the arrays to take: one (train), two (train, test) or three (train, valid, test). By
            default the arrays are found by their names: ``train``, ``valid`` and ``test``, or similar names such as
            ``x_train``, ``train_data`` and ``validation``. If the file holds one array, its name does not matter.
        name: how the images are called; by default as the file.

    Returns:
        The images. A split that the file lacks is a tenth of the training images. They are drawn at random, but always
        the same.

    Raises:
        ValueError: the file is no ``.npz`` file, lacks an array, or holds arrays that are not images.
    """
    if not path.is_file():
        raise ValueError(f"data must be a .npz file, but {path} is not a file; check the path")
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"data must be a .npz file, but {path} cannot be read as a .npz file; write it with numpy.savez"
        )
    with np.load(path, allow_pickle=False) as file:
        chosen = _choose(list(file.files), list(arrays), path)
        parts = {split: file[key] for split, key in chosen.items()}
    return _from_arrays(name or path.stem, parts)


def load(dataset: str, path: Path | None = None, *, arrays: Sequence[str] = ()) -> Images:
    """The images called ``dataset``: ``digits``, ``mnist``, or any other name with ``path`` naming a ``.npz`` file.

    >>> load("digits").describe()
    'digits: 8x8 grey, 1,197 / 200 / 400 images to train / validate / test'
    """
    if arrays and (path is None or path.suffix != ".npz"):
        raise ValueError(
            f"data must be a .npz file if arrays are named, but it is {path}; give --data FILE.npz, or no --arrays"
        )
    if path is not None and path.suffix == ".npz":
        return load_npz(path, arrays=arrays, name=dataset if dataset != "npz" else None)
    if dataset == "digits":
        if path is not None:
            raise ValueError(
                f"data must be left out for the dataset digits, which is bundled, but it is {path}; give these images "
                "another name with --dataset"
            )
        return load_digits()
    if dataset == "mnist":
        return load_mnist(path)
    if path is None:
        raise ValueError(
            f"dataset must be digits or mnist, but it is {dataset!r}; give the images of another dataset with "
            "--data FILE.npz"
        )
    raise ValueError(f"data of dataset {dataset!r} must be a .npz file, but it is {path}; write one with numpy.savez")


def _choose(names: list[str], arrays: list[str], path: Path) -> dict[str, str]:
    """Which array of the file is which split."""
    for name in arrays:
        if name not in names:
            raise ValueError(
                f"arrays must be names of arrays in {path}: {', '.join(names)}, but one is {name!r}; give such names"
            )
    if arrays:
        if len(arrays) > 3:
            raise ValueError(
                "arrays must be one to three names (train; train,test; train,valid,test), but there are "
                f"{len(arrays)}; leave the others out"
            )
        roles = {1: ("train",), 2: ("train", "test"), 3: _SPLITS}[len(arrays)]
        return dict(zip(roles, arrays, strict=True))
    if len(names) == 1:
        return {"train": names[0]}
    aliases = {"train": ("train", "training"), "valid": ("valid", "validation", "val"), "test": ("test", "testing")}
    chosen = {}
    for split, words in aliases.items():
        spellings = [p.format(w) for w in words for p in ("{}", "{}_data", "x_{}", "{}_x", "{}_images", "X_{}")]
        found = [s for s in spellings if s in names]
        if found:
            chosen[split] = found[0]
    if "train" not in chosen:
        raise ValueError(
            f"data must have an array named train, but {path} holds {', '.join(names) or 'nothing'}; name the arrays "
            "with --arrays, the training images first"
        )
    return chosen


def _from_arrays(name: str, parts: dict[str, Any]) -> Images:
    converted = {split: _rows(array, split) for split, array in parts.items()}
    shapes = {shape for _, shape in converted.values()}
    if len(shapes) != 1:
        raise ValueError(
            f"the splits of {name} must have images of one shape, but the shapes are {sorted(shapes)}; resize images"
        )
    return _assemble(name, {split: rows for split, (rows, _) in converted.items()}, shapes.pop())


def _assemble(
    name: str, parts: dict[str, Any], shape: tuple[int, int], valid: int | None = None, test: int | None = None
) -> Images:
    """Take the splits that are missing from the training images, in an order that is always the same."""
    train = parts["train"]
    if "valid" not in parts or "test" not in parts:
        train = train[np.random.default_rng(_SPLIT_SEED).permutation(len(train))]
        tenth = max(1, len(train) // 10)
        for split, count in (("test", test or tenth), ("valid", valid or tenth)):
            if split not in parts:
                parts[split], train = train[-count:], train[:-count]
    parts["train"] = train
    for split in _SPLITS:
        if len(parts[split]) == 0:
            raise ValueError(
                f"{name} must have at least one image in each of train, valid and test, but no image is left for "
                f"{split}; give more images"
            )
    binary = all(bool(((part == 0) | (part == 1)).all()) for part in parts.values())
    tensors = {
        split: torch.from_numpy(np.ascontiguousarray(part, dtype=np.uint8 if binary else np.float32))
        for split, part in parts.items()
    }
    return Images(name, shape, **tensors, binary=binary)


def _rows(array: Any, split: str) -> tuple[Any, tuple[int, int]]:
    """Rows ``(n, pixels)`` in [0, 1] (or uint8 of 0 and 1), and the height and width of an image."""
    if array.ndim == 4 and 1 in (array.shape[1], array.shape[3]):
        array = array.squeeze(1 if array.shape[1] == 1 else 3)
    if array.ndim not in (2, 3):
        raise ValueError(
            f"{split} images must be (n, height, width) or (n, pixels), but their shape is {array.shape}; reshape them"
        )
    if array.ndim == 2:
        width = array.shape[1]
        if math.isqrt(width) ** 2 != width:
            bits = 8 * width
            if array.dtype != np.uint8 or math.isqrt(bits) ** 2 != bits:
                raise ValueError(
                    f"{split} images of shape (n, pixels) must be square, or packed bits (uint8) of square images, but "
                    f"a row has {width} numbers of {array.dtype}; save the images as (n, height, width)"
                )
            array, width = np.unpackbits(array, axis=1), bits
        shape = (math.isqrt(width), math.isqrt(width))
    else:
        shape = (array.shape[1], array.shape[2])
    rows = array.reshape(len(array), -1)
    if rows.dtype == np.bool_:
        return rows.astype(np.uint8), shape
    if rows.dtype == np.uint8:
        return (rows, shape) if rows.size == 0 or rows.max() <= 1 else (rows.astype(np.float32) / 255.0, shape)
    if not np.issubdtype(rows.dtype, np.floating) and not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(
            f"{split} images must be bool, uint8 or floating, but they are {rows.dtype}; save them as one of these"
        )
    if rows.size and not (rows.min() >= 0 and rows.max() <= 1):
        raise ValueError(
            f"{split} images of {rows.dtype} must lie in [0, 1], but their values go from {rows.min()} to "
            f"{rows.max()}; scale them, or save them as uint8"
        )
    return rows.astype(np.float32), shape


def _read_idx(folder: Path, name: str) -> Any:
    """One IDX file of unsigned bytes with three dimensions, gzipped or not."""
    for file in (folder / f"{name}.gz", folder / name):
        if file.is_file():
            break
    else:
        raise ValueError(
            f"data must be a folder with the MNIST IDX files, but {folder} has no {name} or {name}.gz; put it there"
        )
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
        content = stream.read()
    magic, count, height, width = struct.unpack(">IIII", content[:16]) if len(content) >= 16 else (0, 0, 0, 0)
    if magic != 0x803 or len(content) != 16 + count * height * width:
        raise ValueError(
            f"{file} must be a whole IDX file of {count} images, but its magic number is {magic:#x} and it has "
            f"{len(content)} bytes; download it again"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=16).reshape(count, height, width)
