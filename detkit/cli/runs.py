"""`detkit runs`: a table of past and present training runs."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from detkit.cli import options, terminal

if TYPE_CHECKING:
    from detkit.train.history import RunRecord

_DEFAULT = Path("runs")
_NUMBERS = ("px", "epochs", "AP", "AP50", "NME", "quality", "minutes")

Folder = Annotated[
    Path | None, typer.Argument(metavar="FOLDER", help="Where the runs are (default: runs).", show_default=False)
]
Sort = Annotated[
    Literal["time", "ap", "name"],
    typer.Option("--sort", help="time: the last written first. ap: the best first. name: by the alphabet."),
]


def runs(folder: Folder = None, sort: Sort = "time", json: options.Json = False) -> None:
    """List training runs: what they were, how far they came, how good they are.

    Looks in FOLDER and two levels below it. AP and AP50 are those of the best epoch on the run's own val split (0 to 1;
    NME, the error of landmarks, is better when lower; "quality" is a localizer's: IoU, class and whether there is an
    object in one), so compare only runs with equal data. "epochs" are those done of those planned (12/30m: in a budget
    of 30 minutes). The state is "complete"; "ended early", when nothing got better; "interrupted", stopped in order, to
    go on with detkit train --resume; or "unfinished", still running or killed: see when it was last written. A run
    whose files are damaged is listed as far as it can be read.

    --json tells more: all val figures of the best epoch, every setting, and those that are not the default.

    Try it:  detkit runs --sort ap
    """
    from detkit.train.history import find_runs

    where = folder or _DEFAULT
    found = [] if folder is None and not where.exists() else _sorted(find_runs(where), sort)
    for warning in (warning for run in found for warning in run.warnings):
        terminal.warn(warning)
    if json:
        terminal.print_json({"runs": [_document(run) for run in found]})
    elif found:
        _print_table(found)
    else:
        terminal.say(f"no runs in {where}; one is made by: detkit train DATA")


def _sorted(found: list[RunRecord], sort: str) -> list[RunRecord]:
    """`found` comes newest first, and stays so among equals."""
    if sort == "name":
        return sorted(found, key=lambda run: run.name)
    if sort == "ap":
        return sorted(found, key=lambda run: -run.best.get("AP", -1))
    return found


def _document(run: RunRecord) -> dict[str, Any]:
    """A run as plain JSON; the epochs' rows stay in its metrics.jsonl."""
    from detkit.train.defaults import changed_settings

    document = asdict(run) | {"path": str(run.path), "changed": changed_settings(run.settings)}
    return {key: value for key, value in document.items() if key != "metrics"}


def _print_table(found: list[RunRecord]) -> None:
    of_tasks = [name for name in ("NME", "quality") if any(name in run.best for run in found)]
    figures = ("AP", "AP50", *of_tasks)
    headers = ("run", "model", "data", "px", "epochs", *figures, "minutes", "state", "written")
    rows = [_row(run, figures) for run in found]
    terminal.print_table(headers, rows, right=[name for name in headers if name in _NUMBERS])


def _row(run: RunRecord, figures: tuple[str, ...]) -> list[str]:
    values = [run.best.get(name, -1.0) for name in figures]
    return [
        run.name,
        " ".join(part for part in (run.task, run.model) if part) or "-",
        run.data or "-",
        "-" if run.size_px is None else str(run.size_px),
        f"{run.epochs_done}/{_planned(run)}",
        *("-" if value < 0 else f"{value:.3f}" for value in values),
        "-" if run.seconds is None else f"{run.seconds / 60:.1f}",
        run.state,
        time.strftime("%Y-%m-%d %H:%M", time.localtime(run.written_s)),
    ]


def _planned(run: RunRecord) -> str:
    """Epochs, or the minutes of a run planned by time."""
    if run.time_min is not None:
        return f"{run.time_min:g}m"
    return "?" if run.epochs_planned is None else str(run.epochs_planned)
