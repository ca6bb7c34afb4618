"""How a run begins: a new one, or one that goes on where it stood."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from detkit.config import load
from detkit.data.check import CheckReport, Watch, check_for_training
from detkit.data.dataset import Dataset
from detkit.data.formats import read
from detkit.errors import DataError
from detkit.train.batch_size import BatchChoice
from detkit.train.distributed import Team
from detkit.train.fit import Fit
from detkit.train.prepare import AnchorPlan, new_card
from detkit.train.run_folder import RunFolder, free_name
from detkit.train.settings import TrainSettings
from detkit.train.tasks import task_of
from detkit.train.trials import choose_batch
from detkit.weights import ModelCard, read_card


def begin(
    data: TrainingData,
    settings: TrainSettings,
    run: Path | None,
    team: Team,
    on_plan: Callable[[AnchorPlan], None] = lambda _: None,
    on_batch: Callable[[BatchChoice], None] = lambda _: None,
) -> Fit:
    """A new run: anchors found, network made; `Fit.begin` makes its folder.

    Args:
        data: train and val.
        settings: resolved.
        run: its folder; None takes a free name under runs/.
        on_plan: told the anchors before the long work. on_batch: told the batch size where detkit chooses it.
    Raises:
        DataError: nothing to learn from. UsageError: the batch cannot be shared out.
    """
    train, val = data.train, data.val
    folder = RunFolder(team.from_leader(free_name(Path("runs") / train.name) if run is None else run))
    task = task_of(settings.task)
    plan = task.plan(train, settings)
    if plan is not None:
        on_plan(plan)
    card = new_card(train, plan, settings, task.card_fields(train, settings), data.left_out())
    if settings.batch_size == 0:
        choice = choose_batch(train, card, settings) if team.leads else None
        choice = team.from_leader(choice)
        assert choice is not None
        on_batch(choice)
        settings = replace(settings, batch_size=choice.batch_size * team.size)
    return Fit(folder, train, val, settings, card, team)


def resume(path: Path, team: Team) -> Fit:
    """An interrupted run, where it stood: `path` is its folder, or one of the files in its checkpoints/.

    Raises:
        WeightsError: nothing usable was saved. DataError: the labels changed since.
    """
    folder = RunFolder(path) if path.suffix != ".safetensors" else RunFolder.of_checkpoint(path)
    settings = load(TrainSettings, folder.config)
    card = read_card(folder.resumed_from)
    data = same_data(settings)
    check_same_data(card, data.train)
    fit = Fit(folder, data.train, data.val, settings, card, team)
    fit.resume()
    return fit


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The two splits of a run, and how much of the data is not in them.

    left_out_images, left_out_boxes: photos with an error in their labels, and their boxes.
    unsuited_images: photos the task cannot learn from.
    """

    train: Dataset
    val: Dataset
    left_out_images: int = 0
    left_out_boxes: int = 0
    unsuited_images: int = 0

    def left_out(self) -> dict[str, int]:
        """The counts, as the model card has them."""
        counts = {"left_out_images": self.left_out_images, "left_out_boxes": self.left_out_boxes}
        return counts | ({"unsuited_images": self.unsuited_images} if self.unsuited_images else {})


def check_data(settings: TrainSettings, watch: Watch | None = None) -> CheckReport:
    """Look for everything that is wrong with the data a run's settings name (see `detkit data check`).

    Raises:
        DataError: no data set, or no split train or val.
    """
    assert settings.data is not None
    return check_for_training(settings.data, settings.size_px, format=settings.format, watch=watch)


def usable_data(report: CheckReport, settings: TrainSettings) -> TrainingData:
    """The splits of checked data, if what is wrong with them is nothing, or little enough.

    Raises:
        DataError: more photos have an error than `settings.allow_bad`, or one concerns the whole set; or the task can
            learn from none.
    """
    train, val = report.for_training(settings.allow_bad)
    return _for_task(TrainingData(train, val, report.images_left_out, report.boxes_left_out), settings)


def same_data(settings: TrainSettings) -> TrainingData:
    """The data of a run that began before: checked then, so it is only read, unless photos were left out."""
    if settings.allow_bad:
        return usable_data(check_data(settings), settings)
    assert settings.data is not None
    train, val = (read(settings.data, split, settings.format) for split in ("train", "val"))
    return _for_task(TrainingData(train, val), settings)


def _for_task(data: TrainingData, settings: TrainSettings) -> TrainingData:
    """What of both splits the task can learn from."""
    task = task_of(settings.task)
    train, val = task.usable(data.train), task.usable(data.val)
    unsuited = len(data.train) - len(train) + len(data.val) - len(val)
    return replace(data, train=train, val=val, unsuited_images=unsuited)


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
