"""`detkit train`: labelled photos in, a run folder with a model out."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detkit.cli import options, terminal
from detkit.errors import ExitCode, MissingExtraError, UsageError

if TYPE_CHECKING:
    from detkit.data.dataset import Dataset
    from detkit.train.fit import Fit
    from detkit.train.prepare import AnchorPlan
    from detkit.train.settings import TrainSettings

Data = Annotated[
    Path | None,
    typer.Argument(metavar="DATA", help="Data set: a folder, a data.yaml or a COCO JSON file.", show_default=False),
]
Run = Annotated[
    Path | None,
    typer.Option("--run", metavar="DIR", help="Folder of the run (default: runs/NAME of the data)."),
]
Start = Annotated[
    str | None,
    typer.Option("--weights", "-w", metavar="FILE|NAME", help="Begin from this .safetensors model, not from ImageNet."),
]
Config = Annotated[Path | None, typer.Option("--config", metavar="TOML", help="Settings file, such as a run's own.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting, such as optim.lr=0.002; may be repeated."),
]
Resume = Annotated[
    Path | None, typer.Option("--resume", metavar="DIR", help="Go on with an interrupted run, exactly where it stood.")
]
Epochs = Annotated[int | None, typer.Option("--epochs", min=1, help="Passes over the photos (default: 30).")]
Size = Annotated[int | None, typer.Option("--size", min=32, help="Side of the canvas in pixels (default: 320).")]
Batch = Annotated[int | None, typer.Option("--batch", min=1, help="Canvases per step (default: 16).")]
Backbone = Annotated[
    str | None, typer.Option("--backbone", metavar="NAME", help="Network to build on (default: efficientnet_lite0).")
]


def train(
    data: Data = None,
    run: Run = None,
    weights: Start = None,
    epochs: Epochs = None,
    size: Size = None,
    batch: Batch = None,
    backbone: Backbone = None,
    config: Config = None,
    set_: Set = None,
    resume: Resume = None,
    json: options.Json = False,
) -> None:
    """Turn a labelled data set into a model.

    Trains on the split "train", looks at "val" after each epoch and keeps the best weights as best.onnx (to run) and
    best.safetensors (to train on). Ctrl-C keeps everything: the run can be used as it is, or resumed.

    Try it:  detkit train street --epochs 30
    """
    _need_torch()
    from detkit.train.run_folder import RunFolder

    overrides = [
        f"{key}={value}"
        for key, value in {"epochs": epochs, "size_px": size, "batch_size": batch, "model.backbone": backbone}.items()
        if value is not None
    ] + (set_ or [])
    if resume is not None:
        if data is not None or run is not None or weights is not None or config is not None or overrides:
            raise UsageError("--resume goes on with the run's own data and settings; give nothing beside it")
        fit = _resumed(RunFolder(resume))
    else:
        fit = _begun(_settings(data, weights, config, overrides), run)
    with _stop_on_interrupt() as stop:
        finish = terminal.show_training(fit.run(lambda: bool(stop)), fit.settings.epochs)
    if json:
        terminal.print_json({key: str(v) if isinstance(v, Path) else v for key, v in asdict(finish).items()})
    terminal.say(f"model: {finish.run / 'best.onnx'}" + (f", val AP {finish.best:.3f}" if finish.best >= 0 else ""))
    if not finish.complete:
        terminal.say(f"interrupted; to go on: detkit train --resume {finish.run}")
        raise typer.Exit(ExitCode.INTERRUPTED)


def _need_torch() -> None:
    try:
        import detkit.train.fit  # noqa: F401  (is everything it needs there?)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("detkit"):
            raise
        raise MissingExtraError(
            f'training needs PyTorch and more ({error.name} is missing): pip install "detkit-cv[train]"'
        ) from error


def _settings(data: Path | None, weights: str | None, config: Path | None, overrides: list[str]) -> TrainSettings:
    from detkit.config import load
    from detkit.train.settings import TrainSettings, resolve
    from detkit.weights import find_weights

    settings = load(TrainSettings, config, overrides)
    if data is not None:
        settings = replace(settings, data=data.absolute())
    if weights is not None:
        settings = replace(settings, start=find_weights(weights, ".safetensors"))
    if settings.data is None:
        raise UsageError("no data set given", expected="detkit train DATA, or --resume DIR")
    return resolve(settings)


def _begun(settings: TrainSettings, run: Path | None) -> Fit:
    """A new run: data read, anchors found, folder made."""
    from detkit.train.fit import Fit
    from detkit.train.prepare import new_card, plan_anchors
    from detkit.train.run_folder import RunFolder, free_name

    train_set, val_set = _read(settings)
    folder = RunFolder(free_name(Path("runs") / train_set.name) if run is None else run)
    plan = plan_anchors(train_set, settings)
    _say_plan(plan, settings)
    fit = Fit(folder, train_set, val_set, settings, new_card(train_set, plan, settings))
    fit.begin()
    terminal.say(f"run folder: {folder.path}")
    return fit


def _resumed(folder: Any) -> Fit:
    """An interrupted run, where it stood."""
    from detkit.config import load
    from detkit.train.fit import Fit, check_same_data
    from detkit.train.settings import TrainSettings
    from detkit.weights import read_card

    settings = load(TrainSettings, folder.config)
    card = read_card(folder.last)
    train_set, val_set = _read(settings)
    check_same_data(card, train_set)
    fit = Fit(folder, train_set, val_set, settings, card)
    fit.resume()
    terminal.say(f"resuming {folder.path} at epoch {fit.position.epoch + 1}, batch {fit.position.batch + 1}")
    return fit


def _read(settings: TrainSettings) -> tuple[Dataset, Dataset]:
    from detkit.data.formats import read

    assert settings.data is not None
    both = read(settings.data, "train"), read(settings.data, "val")
    for part in both:
        terminal.say(terminal.describe_dataset(part))
    return both


def _say_plan(plan: AnchorPlan, settings: TrainSettings) -> None:
    """The anchors, how well they fit, and what the grid must lose."""
    model, fit, lost = settings.model, plan.fit, plan.collisions
    start = "ImageNet weights" if model.pretrained else settings.start or "random weights"
    terminal.say(f"model: {model.backbone} from {start}, {settings.size_px} px, {settings.precision}")
    levels = "  ".join(" ".join(f"{w:.0f}x{h:.0f}" for w, h in level) for level in plan.anchors_wh_px)
    terminal.say(
        f"anchors: {levels} px; best possible recall {fit.best_possible_recall:.4f}, "
        f"mean IoU {fit.mean_iou:.3f}, {fit.anchors_per_target:.1f} anchors per box"
    )
    terminal.say(
        f"the grid cannot hold {lost.objects_lost_to_crowding} of {lost.objects} boxes (more objects in a cell than "
        f"anchors, {lost.crowded_cells} cells) and cannot tell apart {lost.objects_lost_to_same_shape} (objects of one "
        f"shape in a cell, {lost.same_shape_cells} cells)"
    )


@contextmanager
def _stop_on_interrupt() -> Iterator[list[int]]:
    """A list that Ctrl-C makes non-empty, so that training ends between two steps; a second Ctrl-C ends it at once."""
    stop: list[int] = []

    def remember(number: int, _frame: FrameType | None) -> None:
        stop.append(number)
        signal.signal(number, signal.default_int_handler)
        terminal.say("\nstopping after this step; Ctrl-C again to stop at once")

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
