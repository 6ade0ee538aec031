"""The images of a training: bundled, of IDX files, of .npz files; made binary or left grey."""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from argumbel.experiments import data


def write_idx(folder: Path, name: str, pixels: np.ndarray, *, zipped: bool) -> None:
    content = struct.pack(">IIII", 0x803, *pixels.shape) + pixels.tobytes()
    (folder / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(content) if zipped else content)


def test_digits_are_bundled_and_always_split_alike() -> None:
    digits = data.load("digits")
    assert [len(part) for part in (digits.train, digits.valid, digits.test)] == [1197, 200, 400]
    assert digits.shape == (8, 8)
    assert not digits.binary
    assert torch.equal(digits.test, data.load("digits").test)
    bundled = pytest.importorskip("sklearn.datasets").load_digits().data / 16.0
    ours = torch.cat((digits.train, digits.valid, digits.test)).numpy()
    order = lambda rows: rows[np.lexsort(rows.T)]  # noqa: E731
    np.testing.assert_allclose(order(ours.astype(np.float64)), order(bundled), atol=1e-7)
    assert not np.array_equal(ours, bundled.astype(np.float32))  # shuffled: the bundled order groups writers


@pytest.mark.parametrize("zipped", [True, False])
def test_mnist_from_idx_files(tmp_path: Path, zipped: bool) -> None:
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 256, (n, 4, 6), dtype=np.uint8) for n in (60, 10))
    write_idx(tmp_path, "train-images-idx3-ubyte", train, zipped=zipped)
    write_idx(tmp_path, "t10k-images-idx3-ubyte", test, zipped=zipped)
    loaded = data.load("mnist", tmp_path)
    assert (loaded.shape, len(loaded.train), len(loaded.valid), len(loaded.test)) == ((4, 6), 50, 10, 10)
    np.testing.assert_allclose(torch.cat((loaded.train, loaded.valid)).numpy() * 255, train.reshape(60, -1), rtol=1e-6)
    np.testing.assert_allclose(loaded.test.numpy() * 255, test.reshape(10, -1), rtol=1e-6)


def test_mnist_without_a_folder_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    import sklearn.datasets

    rows = np.zeros((60_010, 784), dtype=np.int64)
    rows[49_999:50_001, 0] = 255
    rows[60_000, 1] = 51
    monkeypatch.setattr(sklearn.datasets, "fetch_openml", lambda name, **_: SimpleNamespace(data=rows))
    loaded = data.load("mnist")
    assert [len(part) for part in (loaded.train, loaded.valid, loaded.test)] == [50_000, 10_000, 10]
    assert loaded.train[-1, 0] == loaded.valid[0, 0] == 1.0
    assert loaded.test[0, 1] == pytest.approx(0.2)

    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", offline)
    with pytest.raises(ValueError, match=r"the download failed \(no route to host\); give a folder"):
        data.load("mnist")


@pytest.mark.parametrize(
    "content", [b"", struct.pack(">IIII", 0x801, 1, 2, 2) + b"1234", struct.pack(">IIII", 0x803, 2, 2, 2)]
)
def test_broken_idx_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(ValueError, match="train-images-idx3-ubyte must be a whole IDX file"):
        data.load("mnist", tmp_path)


BITS = np.random.default_rng(1).integers(0, 2, (30, 784), dtype=np.uint8)
GREY = np.random.default_rng(2).integers(0, 256, (30, 5, 7), dtype=np.uint8)


@pytest.mark.parametrize(
    ("stored", "shape", "binary", "expected"),
    [
        (np.packbits(BITS, axis=1), (28, 28), True, BITS),
        (BITS, (28, 28), True, BITS),
        (BITS.astype(bool).reshape(30, 28, 28), (28, 28), True, BITS),
        (BITS.astype(np.float64), (28, 28), True, BITS),
        (BITS.astype(np.int64), (28, 28), True, BITS),
        (GREY, (5, 7), False, GREY.reshape(30, 35) / 255),
        (GREY[..., None], (5, 7), False, GREY.reshape(30, 35) / 255),
        (GREY[:, None], (5, 7), False, GREY.reshape(30, 35) / 255),
        (GREY.astype(np.float32) / 255, (5, 7), False, GREY.reshape(30, 35) / 255),
    ],
)
def test_npz_of_every_kind(
    tmp_path: Path, stored: np.ndarray, shape: tuple, binary: bool, expected: np.ndarray
) -> None:
    np.savez(tmp_path / "a.npz", train=stored[:20], valid=stored[20:25], test=stored[25:])
    loaded = data.load("mine", tmp_path / "a.npz")
    assert (loaded.name, loaded.shape, loaded.binary) == ("mine", shape, binary)
    assert loaded.train.dtype == (torch.uint8 if binary else torch.float32)
    ours = torch.cat((loaded.train, loaded.valid, loaded.test)).numpy()
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-7)


def test_npz_names(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    np.savez(file, x_train=BITS[:20], validation_data=BITS[20:22], x_test=BITS[22:], labels=np.arange(30))
    loaded = data.load("a", file)
    assert [len(s) for s in (loaded.train, loaded.valid, loaded.test)] == [20, 2, 8]
    named = data.load("a", file, arrays=["x_train", "x_test"])
    assert [len(s) for s in (named.train, named.valid, named.test)] == [18, 2, 8]
    alone = data.load("a", file, arrays=["x_train"])
    assert [len(s) for s in (alone.train, alone.valid, alone.test)] == [16, 2, 2]
    rows = {bytes(row) for part in (alone.train, alone.valid, alone.test) for row in part.numpy()}
    assert rows == {bytes(row) for row in BITS[:20]}
    np.savez(tmp_path / "one.npz", pictures=BITS)
    assert len(data.load("one", tmp_path / "one.npz").train) == 24


@pytest.mark.parametrize(
    ("arrays", "asked", "message"),
    [
        ({"a": BITS, "b": BITS}, [], "holds a, b; name the arrays with --arrays"),
        ({"train": BITS}, ["x"], "arrays must be names of arrays in .*: train, but one is 'x'"),
        ({"train": BITS}, ["train"] * 4, "one to three names"),
        ({"train": BITS[:, :51]}, [], r"train images of shape .* must be square.*but a row has 51 numbers of uint8"),
        ({"train": BITS.astype(float)[:, :98]}, [], "but a row has 98 numbers of float64"),
        ({"train": BITS[0]}, [], r"must be \(n, height, width\) or \(n, pixels\), but their shape is \(784,\)"),
        ({"train": BITS * 1.5}, [], r"of float64 must lie in \[0, 1\], but their values go from 0.0 to 1.5"),
        ({"train": BITS * math.nan}, [], r"must lie in \[0, 1\]"),
        ({"train": BITS.astype(np.int32) - 1}, [], "but their values go from -1 to 0"),
        ({"train": BITS.astype(str)}, [], "must be bool, uint8 or floating, but they are <U3"),
        (
            {"train": BITS, "test": BITS[:, :400]},
            [],
            r"images of one shape, but the shapes are \[\(20, 20\), \(28, 28\)\]",
        ),
        ({"train": BITS[:2]}, [], "no image is left for train"),
    ],
)
def test_bad_npz(tmp_path: Path, arrays: dict, asked: list[str], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        data.load("a", tmp_path / "a.npz", arrays=asked)


def test_bad_sources(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("not a zip file")
    for dataset, path, arrays, message in [
        ("digits", tmp_path, (), "data must be left out for the dataset digits"),
        ("other", None, (), "dataset must be digits or mnist, but it is 'other'; give .* with --data FILE.npz"),
        ("other", tmp_path, (), "data of dataset 'other' must be a .npz file"),
        ("mnist", tmp_path, (), "has no train-images-idx3-ubyte"),
        ("a", tmp_path / "missing.npz", (), "is not a file"),
        ("a", tmp_path / "text.npz", (), "cannot be read as a .npz file"),
        ("digits", None, ("train",), "data must be a .npz file if arrays are named, but it is None"),
    ]:
        with pytest.raises(ValueError, match=message):
            data.load(dataset, path, arrays=arrays)


def test_binarize() -> None:
    grey = torch.rand((4000, 6), generator=torch.Generator().manual_seed(0))
    source = data.Images("grey", (2, 3), grey, grey.clone(), grey.clone(), binary=False)
    threshold = data.binarize(source, "threshold", seed=0)
    assert torch.equal(threshold.train, (grey >= 0.5).to(torch.uint8))
    static, again, other = (data.binarize(source, "static", seed=s) for s in (3, 3, 4))
    assert torch.equal(static.train, again.train)
    for a, b in ((static.train, other.train), (static.train, static.valid), (static.valid, static.test)):
        assert not torch.equal(a, b)
    # E (b - x)^2 = x (1 - x), 1/6 on average for uniform x: with 24,000 draws its standard error is below 0.0013.
    assert abs(float((static.train - grey).square().mean()) - 1 / 6) < 0.008
    assert abs(float((static.train - grey).mean())) < 6 * (1 / 6 / 24_000) ** 0.5
    dynamic = data.binarize(source, "dynamic", seed=3)
    assert dynamic.train is grey
    assert not dynamic.binary
    assert torch.equal(dynamic.test, static.test)
    assert data.binarize(static, "dynamic", seed=9) is static
    assert data.binarize(source, "none", seed=3) is source
    with pytest.raises(
        ValueError, match="binarize must be one of 'threshold', 'static', 'dynamic', 'none', but it is 'sometimes'"
    ):
        data.binarize(source, "sometimes", seed=0)
