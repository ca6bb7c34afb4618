"""Doing the first steps of a run again, to see whether they come out the same to the last bit."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detkit.config import load
from detkit.errors import DataError, UsageError
from detkit.train.diary import environment
from detkit.train.distributed import ALONE, Team
from detkit.train.fit import Fit
from detkit.train.reports import StepReport
from detkit.train.run_folder import RunFolder
from detkit.train.schedule import Clock
from detkit.train.settings import TrainSettings
from detkit.train.start import check_same_data, same_data
from detkit.weights import read_card

_PARTS = {"fed": "the photos fed to the network", "losses": "the loss", "norm": "the gradient"}


@dataclass(frozen=True, slots=True)
class Repeated:
    """One step done again: `part` is the first thing that came out otherwise, None where nothing did."""

    step: int
    steps: int
    part: str | None = None
    found: Any = None
    expected: Any = None


class _Replay(Clock):
    """The plans a run made of its length, in the order it made them."""

    plans: Sequence[int] = ()

    def tick(self, step: int) -> None:
        if step < len(self.plans):
            self.total_steps = self.plans[step]


def repeat(run: Path, steps: int, team: Team = ALONE) -> Iterator[Repeated]:
    """Train the first steps of a run again in a temporary folder, and compare each with what the run noted.

    Args:
        run: a run folder; nothing in it is changed.
        steps: how many, at most as many as the run did.
    Returns:
        A report per step; the last is the first that differs, if one does.
    Raises:
        UsageError: no such run, or nothing noted. DataError: the labels changed since. WeightsError: no saved state.
    """
    folder = RunFolder(run)
    settings = load(TrainSettings, folder.config)
    noted = folder.rows(folder.steps)[:steps]
    if not noted:
        raise UsageError("no steps are noted in this run", file=folder.steps)
    if any(not {"total", *_PARTS} <= row.keys() for row in noted):
        raise UsageError("the notes of this run's steps cannot be compared with", file=folder.steps)
    card = read_card(folder.last)
    data = same_data(settings)
    check_same_data(card, data.train)
    with tempfile.TemporaryDirectory() as scratch:
        again = RunFolder(Path(scratch) / "again")
        quiet = replace(settings, self_test=False, tensorboard=False, save_every_min=1e9)
        fit = Fit(again, data.train, data.val, quiet, card, team)
        fit.begin()
        fit.clock = _Replay(fit.clock.budget_s, fit.clock.epoch_steps, noted[0]["total"])
        fit.clock.plans = [row["total"] for row in noted]
        with closing(fit.run()) as reports:
            for report in reports:
                if isinstance(report, StepReport):
                    assert fit.diary is not None
                    found = _difference(report.step, len(noted), fit.diary.latest, noted[report.step - 1])
                    yield found
                    if found.part is not None or report.step == len(noted):
                        return


def _difference(step: int, steps: int, ours: dict[str, Any], theirs: dict[str, Any]) -> Repeated:
    for key, part in _PARTS.items():
        if ours[key] != theirs[key]:
            return Repeated(step, steps, part, ours[key], theirs[key])
    return Repeated(step, steps)


def changed_environment(run: Path, team: Team = ALONE) -> dict[str, tuple[Any, Any]]:
    """What is not as it was when the run began: name -> (then, now).

    Raises:
        DataError: environment.json cannot be read.
    """
    path = RunFolder(run).environment
    try:
        then = json.loads(path.read_text("utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", file=path) from error
    now = environment(team)
    return {key: (then[key], now.get(key)) for key in then if then[key] != now.get(key)}
