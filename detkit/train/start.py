"""How a run begins: a new one, or one that goes on where it stood."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from detkit.config import load
from detkit.data.dataset import Dataset
from detkit.data.formats import read
from detkit.errors import DataError
from detkit.train.batch_size import BatchChoice
from detkit.train.distributed import Team
from detkit.train.fit import Fit
from detkit.train.prepare import AnchorPlan, new_card, plan_anchors
from detkit.train.run_folder import RunFolder, free_name
from detkit.train.settings import TrainSettings
from detkit.train.trials import choose_batch
from detkit.weights import ModelCard, read_card

Splits = tuple[Dataset, Dataset]


def begin(
    splits: Splits,
    settings: TrainSettings,
    run: Path | None,
    team: Team,
    on_plan: Callable[[AnchorPlan], None] = lambda _: None,
    on_batch: Callable[[BatchChoice], None] = lambda _: None,
) -> Fit:
    """A new run: anchors found, folder made.

    Args:
        splits: train and val.
        settings: resolved.
        run: its folder; None takes a free name under runs/.
        on_plan: told the anchors before the long work. on_batch: told the batch size where detkit chooses it.
    Raises:
        DataError: nothing to learn from. UsageError, RunError: the folder cannot be made.
    """
    train, val = splits
    folder = RunFolder(team.from_leader(free_name(Path("runs") / train.name) if run is None else run))
    plan = plan_anchors(train, settings) if settings.task == "yolo" else None
    if plan is not None:
        on_plan(plan)
    card = new_card(train, plan, settings)
    if settings.batch_size == 0:
        choice = choose_batch(train, card, settings) if team.leads else None
        choice = team.from_leader(choice)
        assert choice is not None
        on_batch(choice)
        settings = replace(settings, batch_size=choice.batch_size * team.size)
    fit = Fit(folder, train, val, settings, card, team)
    fit.begin()
    return fit


def resume(path: Path, team: Team, on_read: Callable[[Dataset], None] = lambda _: None) -> Fit:
    """An interrupted run, where it stood: `path` is its folder, or one of the files in its checkpoints/.

    Args:
        on_read: told each split once it is read.
    Raises:
        WeightsError: nothing usable was saved. DataError: the labels changed since.
    """
    folder = RunFolder(path) if path.suffix != ".safetensors" else RunFolder.of_checkpoint(path)
    settings = load(TrainSettings, folder.config)
    card = read_card(folder.resumed_from)
    splits = read_splits(settings, on_read)
    check_same_data(card, splits[0])
    fit = Fit(folder, *splits, settings, card, team)
    fit.resume()
    return fit


def read_splits(settings: TrainSettings, on_read: Callable[[Dataset], None] = lambda _: None) -> Splits:
    """The splits train and val of the data a run's settings name."""
    assert settings.data is not None
    both = read(settings.data, "train"), read(settings.data, "val")
    for part in both:
        on_read(part)
    return both


def check_same_data(card: ModelCard, train: Dataset) -> None:
    """Refuse to resume on labels that changed since the run began (DataError)."""
    before, now = card.training.get("data_sha256"), train.content_hash()
    if before != now:
        raise DataError(
            "the labels changed since this run began, so resuming would not continue it; start a new run",
            file=train.source,
            found=f"content hash {now[:12]}",
            expected=str(before)[:12],
        )
