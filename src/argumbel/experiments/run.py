"""The run folder: where a training keeps its configuration, records, checkpoints and report."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch

from .config import Config, run_on, stream
from .data import Images
from .estimator import current_name
from .model import CategoricalVAE

__all__ = ["Config", "Run", "run_on", "stream"]


@dataclass(frozen=True)
class Run:
    """A folder: ``config.json``, ``metrics.jsonl``, checkpoints, then ``evaluation.json`` and ``report.html``."""

    path: Path

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @classmethod
    def create(cls, path: Path, config: Any, *, overwrite: bool = False) -> Self:
        """A new folder with ``config``, a dataclass, in it. A folder that holds a run is a ``ValueError``, unless
        ``overwrite``."""
        run = cls(path)
        if (path / "config.json").exists():
            if not overwrite:
                raise ValueError(
                    f"run must be a folder without a run, but there is a run in {path}; "
                    "continue it (--resume), replace it (--overwrite), or name another folder (--run)"
                )
            for name in ("metrics.jsonl", "checkpoint.pt", "best.pt", "evaluation.json", "report.html"):
                (path / name).unlink(missing_ok=True)
        path.mkdir(parents=True, exist_ok=True)
        run.write_json("config.json", asdict(config))
        return run

    @classmethod
    def open(cls, path: Path) -> Run:
        """The run in a folder that ``argumbel train`` wrote."""
        if not (path / "config.json").is_file():
            raise ValueError(
                f"run must be a folder that argumbel train wrote, but {path} has no config.json; give such a folder"
            )
        return cls(path)

    def config(self, **changes: Any) -> Config:
        """The configuration of this run, with ``changes`` (those that are not None) in place of what is stored."""
        stored = json.loads((self.path / "config.json").read_text())
        if "estimator" in stored:
            stored["estimator"] = current_name(stored["estimator"])
        known = set(Config.settings())
        needed = {name for name, setting in Config.settings().items() if not setting.later}
        if not needed <= set(stored) <= known:
            differing = ", ".join(sorted((needed - set(stored)) | (set(stored) - known)))
            raise ValueError(
                f"{self.path / 'config.json'} must have the settings of this version of argumbel, but it differs in "
                f"{differing}; open the run with the version that wrote it, or train it again"
            )
        return replace(Config(**stored), **{name: value for name, value in changes.items() if value is not None})

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        _replace(self.path / name, lambda part: part.write_text(json.dumps(content, indent=2) + "\n"))

    def read_json(self, name: str) -> dict[str, Any] | None:
        file = self.path / name
        return json.loads(file.read_text()) if file.is_file() else None

    def save(self, name: str, state: Mapping[str, Any]) -> None:
        """Write a checkpoint whole or not at all: a crash leaves the earlier checkpoint."""
        _replace(self.path / name, lambda part: torch.save(dict(state), part))

    def load(self, name: str) -> dict[str, Any]:
        file = self.path / name
        if not file.is_file():
            raise ValueError(
                f"run must have a checkpoint, but {self.path} has no {name}; train it again, at least to the first "
                "checkpoint (--valid-every)"
            )
        return torch.load(file, map_location="cpu", weights_only=True)

    def trained(self, images: Images) -> tuple[CategoricalVAE, dict[str, Any]]:
        """The model with the best validation ELBO, and the rest of its checkpoint."""
        state = self.load("best.pt")
        model = self.config().model(images)
        model.load_state_dict(state.pop("model"))
        return model.eval(), state

    def records(self) -> Iterator[dict[str, Any]]:
        """The lines of ``metrics.jsonl``."""
        if self.metrics.is_file():
            for line in self.metrics.read_text().splitlines():
                yield json.loads(line)

    def drop_records_after(self, step: int) -> None:
        """Drop the records after ``step``, which a crash left behind: they are later than the checkpoint."""
        kept = [record for record in self.records() if record["step"] <= step]
        _replace(self.metrics, lambda part: part.write_text("".join(json.dumps(r) + "\n" for r in kept)))


def _replace(file: Path, write: Any) -> None:
    part = file.with_name(f".{file.name}.part")
    write(part)
    os.replace(part, file)
