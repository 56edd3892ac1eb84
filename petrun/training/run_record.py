"""Read what a run folder holds: settings with their origins, the log, the results. Loads no model and needs no MindSpore."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from petrun.checkpoint.run_files import LOG, RESULTS, RUN_YAML
from petrun.config.load import read_run_yaml
from petrun.errors import ConfigError
from petrun.typing import JsonObject

_SUFFIXES = (".ckpt", ".safetensors")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run as its folder tells it, finished or not."""

    folder: Path
    settings: Mapping[str, object]
    """Dotted key -> value, of all settings."""
    origins: Mapping[str, str]
    """Dotted key -> where its value came from: "default", "--rank", "recipe ...", "inferred ..."."""
    steps: tuple[JsonObject, ...]
    """A record for each optimizer step: step, epoch, loss, lr, grad_norm, tokens, tokens_per_second, seconds, and memory, the most so far
    in bytes."""
    evaluations: tuple[JsonObject, ...]
    """A record for each evaluation: step, epoch, evaluation (metric -> figure); step 0 is before training."""
    results: JsonObject
    """results.json; empty while the run is not finished."""

    @property
    def finished(self) -> bool:
        return bool(self.results)

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def algo(self) -> str:
        return str(self.settings.get("algo", ""))

    @property
    def base(self) -> str | None:
        """The base that was tuned; None: the embedded one."""
        found = self.settings.get("model.base")
        return None if found is None or self.origins.get("model.base") == "embedded recipe" else str(found)

    @property
    def delta(self) -> Path | None:
        """The delta after the last step: a file, of a sharded run a folder; None before it is saved."""
        return self._saved(self.algo.replace("+", "-"))

    @property
    def best(self) -> Path | None:
        """The delta of the best evaluation."""
        return self._saved("best")

    @property
    def before(self) -> dict[str, float]:
        """Scores before training, metric -> figure; empty where nothing was evaluated."""
        return dict(self.results.get("base") or {})

    @property
    def after(self) -> dict[str, float]:
        """Scores after the last step."""
        return dict(self.results.get("delta") or {})

    @property
    def losses(self) -> list[float]:
        """The loss of each step, before its update; NaN for one that was not finite."""
        return [float("nan") if each["loss"] is None else float(each["loss"]) for each in self.steps]

    @property
    def receipt(self) -> JsonObject:
        """What the run learned and from what, as docs/receipt.md describes it; empty while the run is not finished."""
        return dict(self.results.get("receipt") or {})

    def _repr_html_(self) -> str:
        """What a notebook shows for a run: its summary, its scores and its losses."""
        from petrun.training.report.page import snippet

        return snippet(self)

    def _saved(self, stem: str) -> Path | None:
        places = [self.folder / f"{stem}{suffix}" for suffix in _SUFFIXES] + [self.folder / stem]
        return next((place for place in places if place.exists()), None)


def read_run(folder: str | Path) -> RunRecord:
    """Read a run folder, also while its run goes on. Raises ConfigError for a folder that holds no run, or an unreadable one."""
    path = Path(folder).expanduser()
    if not (path / RUN_YAML).is_file():
        what = "no such folder" if not path.exists() else f"holds no run: there is no {RUN_YAML} in it"
        raise ConfigError(f"{folder}: {what}", hint="Give the folder of a run, such as runs/lora-1.")
    settings, origins = read_run_yaml(path / RUN_YAML)
    try:
        lines = [json.loads(line) for line in read_log(path / LOG)[0]]
        results = json.loads((path / RESULTS).read_text(encoding="utf-8")) if (path / RESULTS).is_file() else {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder}: {LOG} or {RESULTS} cannot be read: {error}") from error
    return RunRecord(
        folder=path,
        settings=settings,
        origins=origins,
        steps=tuple(each for each in lines if "loss" in each),
        evaluations=tuple(each for each in lines if "evaluation" in each),
        results=results,
    )


def read_log(path: Path, start: int = 0) -> tuple[list[bytes], int]:
    """Return (the complete lines of a log from byte `start` on, the byte behind them): its last line may be half written yet."""
    if not path.is_file():
        return [], start
    with path.open("rb") as file:
        file.seek(start)
        text = file.read()
    end = text.rfind(b"\n") + 1
    return text[:end].splitlines(), start + end
