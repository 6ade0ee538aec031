"""Evaluation and report of a finished run."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest

from argumbel.experiments import Config, Run, evaluate, evaluate_run, fit, write_report
from tests.small_runs import tiny


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run, _ = fit(tiny(steps=400), tmp_path_factory.mktemp("run") / "run")
    evaluate_run(run, run.config().images(), samples=(4, 16))
    write_report(run)
    return run


def test_evaluation(finished: Run) -> None:
    stored = finished.read_json("evaluation.json")
    assert stored is not None
    loaded = finished.config().images()
    vae, best = finished.trained(loaded)
    assert (stored["images"], stored["step"]) == (400, best["step"])
    assert set(stored) == {
        *("step", "seed", "images", "elbo", "log_likelihood", "kl", "bound_4", "bound_16", "baseline"),
        *("perplexity", "kl_per_latent"),
    }
    assert stored["bound_16"]["mean"] > stored["bound_4"]["mean"] > stored["elbo"]["mean"]
    assert stored["baseline"]["mean"] == pytest.approx(float(evaluate.baseline(loaded.train, loaded.test).mean()))
    assert sum(stored["kl_per_latent"]) == pytest.approx(stored["kl"]["mean"], rel=1e-5)
    assert all(1 <= p <= 4 for p in stored["perplexity"])
    per_image = evaluate.importance_bounds(vae, loaded.test, samples=(4, 16))["bound_16"]
    assert stored["bound_16"]["mean"] == pytest.approx(float(per_image.mean()), rel=1e-12)
    assert stored["bound_16"]["stderr"] == pytest.approx(float(per_image.std()) / 20)


def test_report_is_one_file_with_its_pictures_inside(finished: Run) -> None:
    from matplotlib import image

    page = finished.report.read_text()
    pictures = re.findall(r'<img alt="([^"]+)" src="data:image/png;base64,([^"]+)"', page)
    assert [name for name, _ in pictures] == ["Learning", "Reconstructions", "Samples from the prior", "Codes in use"]
    for _, encoded in pictures:
        pixels = image.imread(io.BytesIO(base64.b64decode(encoded, validate=True)))
        assert pixels.shape[1] >= 1500
        assert pixels[..., :3].std() > 0.02
    assert not re.search(r'(src|href)="(?!data:)|url\(|@import|<script', page)
    stored = finished.read_json("evaluation.json")
    assert stored is not None
    for name in ("elbo", "bound_4", "bound_16", "baseline"):
        assert f"{stored[name]['mean']:.2f}" in page
    assert "gumbel_softmax" in page
    assert "exp:1,5e-4,0.25,100" in page


def test_report_needs_an_evaluation(finished: Run, tmp_path: Path) -> None:
    for name in ("config.json", "best.pt"):
        (tmp_path / name).write_bytes((finished.path / name).read_bytes())
    with pytest.raises(ValueError, match=r"has no evaluation\.json; run argumbel evaluate"):
        write_report(Run.open(tmp_path))


def test_report_of_large_wide_images_and_many_latents(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", train=rng.random((40, 12, 30)), test=rng.random((3, 12, 30)))
    config = Config.make(
        "a<b",
        data=str(tmp_path / "a.npz"),
        hidden=(),
        latents=40,
        classes=25,
        steps=3,
        batch=10,
        threads=1,
        device="cpu",
    )
    run, _ = fit(config, tmp_path / "run")
    evaluate_run(run, config.images(), samples=(2,))
    assert "Categorical VAE on a&lt;b" in write_report(run).read_text()


def test_config_and_state_are_json(finished: Run) -> None:
    assert json.loads((finished.path / "config.json").read_text())["hidden"] == [16]
    names = {f.name for f in dataclasses.fields(Config)}
    assert set(json.loads((finished.path / "config.json").read_text())) == names
