"""Past runs, read from their folders without PyTorch; a damaged folder gives what is left of it and a warning."""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from detkit.errors import UsageError, WeightsError
from detkit.train.defaults import flat_settings
from detkit.weights import ModelCard, read_card

State = Literal["complete", "ended early", "interrupted", "unfinished"]
CONFIG, METRICS, SUMMARY = "config.toml", "metrics.jsonl", "summary.json"
MODELS = ("best.safetensors", "last.safetensors")
LOWER_IS_BETTER = ("NME",)  # the mean error of landmarks; every other figure is better when higher

_DEPTH = 2  # runs/street and runs/street/second-try are found
_SETTLED_S = 5.0  # the summary is written within seconds of the last weights


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run as its folder tells it; None where the folder does not say.

    name: path below the folder that was searched. best: the val figures of the epoch with the best AP (NME for
    landmarks), at `best_epoch`. seconds: time spent training. written_s: when the run last wrote something (Unix time).
    state: "complete", "ended early" (nothing got better), "interrupted" (stopped in order; can be resumed) or
    "unfinished" (running, or killed). epochs_planned: None for a run planned by time, which has `time_min` instead.
    settings: config.toml as `table.key` -> value (see `defaults.changed_settings`). metrics: the epochs' rows.
    warnings: what could not be read.
    """

    name: str
    path: Path
    state: State
    written_s: float
    task: str | None = None
    model: str | None = None
    data: str | None = None
    size_px: int | None = None
    epochs_done: int = 0
    epochs_planned: int | None = None
    time_min: float | None = None
    best: dict[str, float] = field(default_factory=dict)
    best_epoch: int | None = None
    seconds: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    metrics: tuple[dict[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()


def find_runs(folder: Path) -> list[RunRecord]:
    """Every run in `folder` and two levels below it, the last written first.

    Raises:
        UsageError: `folder` is no folder.
    """
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "no such folder"
        raise UsageError(problem, file=folder, expected="a folder that holds runs")
    found = [replace(read_run(path), name=_name_below(folder, path)) for path in _run_folders(folder, _DEPTH)]
    return sorted(found, key=lambda run: (-run.written_s, run.name))


def read_run(path: Path) -> RunRecord:
    """What a run folder tells, however damaged it is."""
    warnings: list[str] = []
    settings = flat_settings(_read_config(path / CONFIG, warnings))
    summary = _read_summary(path / SUMMARY, warnings)
    rows = read_metrics(path / METRICS, warnings)
    card = _read_card(path, warnings)
    training = {} if card is None else card.training
    best_epoch, best = best_figures(rows)
    spent = [_number(source.get("seconds")) for source in (summary, *rows[-1:])]
    done = rows[-1]["epoch"] if rows else _whole(summary.get("epochs")) or _whole(training.get("epochs_done")) or 0
    task = _text(settings.get("task")) if card is None else card.task
    table = task if f"{task}.backbone" in settings else "model"
    backbone = settings.get(f"{table}.backbone") if card is None else _network_name(card)
    source = settings.get("data")
    time_min = _number(settings.get("time_min")) or None
    return RunRecord(
        name=path.resolve().name,
        path=path,
        state=_state(path, summary, rows),
        written_s=max((_written_s(path / name) for name in (CONFIG, METRICS, SUMMARY, *MODELS)), default=0.0),
        task=task,
        model=_text(backbone),
        data=_text(training.get("data")) or (Path(source).name if isinstance(source, str) else None),
        size_px=_whole(settings.get("size_px")) or (None if card is None else max(card.input_hw)),
        epochs_done=done,
        epochs_planned=None if time_min else _whole(settings.get("epochs")),
        time_min=time_min,
        best=best or _figures(training.get("metrics")),
        best_epoch=best_epoch,
        seconds=max((s for s in spent if s is not None), default=None),
        settings=settings,
        metrics=tuple(rows),
        warnings=tuple(warnings),
    )


def read_metrics(path: Path, warnings: list[str]) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl in the order of their epochs; of two for one epoch the later counts.

    Args:
        path: the file; a missing one has no rows.
        warnings: gets a line for every row that cannot be read.
    """
    try:
        lines = path.read_bytes().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        warnings.append(f"{path}: cannot be read: {error.strerror}")
        return []
    rows: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        epoch = _whole(row.get("epoch")) if isinstance(row, dict) else None
        if epoch is None:
            warnings.append(f"{path}:{number}: is no epoch's line, perhaps half-written; left out")
        else:
            rows[epoch] = {**row, "loss": _figures(row.get("loss")), "val": _figures(row.get("val"))}
    return [rows[epoch] for epoch in sorted(rows)]


def best_figures(rows: list[dict[str, Any]]) -> tuple[int | None, dict[str, float]]:
    """The epoch with the best AP (else NME, else the first figure there is) and its val figures; (None, {}) if none.

    Figures of -1 are undefined (COCO's way to say that there was nothing to find) and never the best.
    """
    looked = [row for row in rows if row["val"]]
    keys = [key for row in looked for key, value in row["val"].items() if value >= 0]
    if not keys:
        return None, {}
    key = next((k for k in ("AP", *LOWER_IS_BETTER) if k in keys), keys[0])
    sign = -1 if key in LOWER_IS_BETTER else 1
    best = max((row for row in looked if row["val"].get(key, -1) >= 0), key=lambda row: sign * row["val"][key])
    return best["epoch"], best["val"]


def _run_folders(folder: Path, depth: int) -> Iterator[Path]:
    """`folder` if it is a run, else the runs below it."""
    if _is_run(folder):
        yield folder
        return
    try:
        inner = sorted(e.name for e in os.scandir(folder) if depth and e.is_dir() and not e.name.startswith("."))
    except OSError:  # not ours to read
        return
    for name in inner:
        yield from _run_folders(folder / name, depth - 1)


def _is_run(path: Path) -> bool:
    """Holds what only a run writes; a lone config.toml may be anybody's."""
    begun = (path / CONFIG).is_file() and (path / "plots").is_dir()
    return begun or any((path / name).is_file() for name in (METRICS, "last.safetensors"))


def _name_below(folder: Path, path: Path) -> str:
    return path.resolve().name if path == folder else path.relative_to(folder).as_posix()


def _read_config(path: Path, warnings: list[str]) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        warnings.append(f"{path}: cannot be read: {error.strerror}")
    except ValueError as error:  # not UTF-8, or not TOML
        warnings.append(f"{path}: is not TOML: {error}")
    return {}


def _read_summary(path: Path, warnings: list[str]) -> dict[str, Any]:
    """The summary; a run that still goes on has none."""
    try:
        summary = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        warnings.append(f"{path}: cannot be read: {error.strerror}")
        return {}
    except (ValueError, RecursionError):
        summary = None
    if not isinstance(summary, dict):
        warnings.append(f"{path}: is no JSON object, perhaps half-written")
        return {}
    return summary


def _read_card(path: Path, warnings: list[str]) -> ModelCard | None:
    """The card of the best weights, else of the last."""
    for name in MODELS:
        if (path / name).is_file():
            try:
                return read_card(path / name)
            except WeightsError as error:
                warnings.append(str(error))
    return None


def _state(path: Path, summary: Mapping[str, Any], rows: list[dict[str, Any]]) -> State:
    """Judged by the summary, which is a run's last word unless it was resumed after it."""
    written_s = _written_s(path / SUMMARY)
    gone_on = bool(rows) and rows[-1]["epoch"] > (_whole(summary.get("epochs")) or 0)
    if not isinstance(summary.get("complete"), bool) or gone_on:
        return "unfinished"
    if summary["complete"]:
        return "ended early" if summary.get("early") is True else "complete"
    later_s = max(_written_s(path / METRICS), _written_s(path / "last.safetensors")) - written_s
    return "unfinished" if later_s > _SETTLED_S else "interrupted"


def _written_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _figures(value: object) -> dict[str, float]:
    """The finite numbers of a JSON object."""
    found = value.items() if isinstance(value, dict) else ()
    return {key: number for key, given in found if (number := _number(given)) is not None}


def _number(value: object) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None  # type: ignore[arg-type]


def _whole(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _network_name(card: ModelCard) -> object:
    """What a card calls its network: by its backbone, or as torchvision does."""
    return card.architecture.get("backbone", card.architecture.get("name"))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
