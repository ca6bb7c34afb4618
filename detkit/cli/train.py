"""`detkit train`: labelled photos in, a run folder with a model out."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from detkit.cli import options, terminal
from detkit.errors import ExitCode, MissingExtraError, RunError, UsageError

if TYPE_CHECKING:
    from detkit.data.check import CheckReport
    from detkit.data.check_photos import PhotoFacts
    from detkit.train.batch_size import BatchChoice
    from detkit.train.distributed import Team
    from detkit.train.fit import Fit
    from detkit.train.prepare import AnchorPlan
    from detkit.train.settings import TrainSettings
    from detkit.train.start import TrainingData

Data = Annotated[
    Path | None,
    typer.Argument(metavar="DATA", help="Data set: a folder, a data.yaml or a COCO JSON file.", show_default=False),
]
Run = Annotated[
    Path | None,
    typer.Option(
        "--run",
        "--run-dir",  # torchrun takes --run for its own --run-path
        metavar="DIR",
        help="Folder of the run (default: runs/NAME of the data).",
    ),
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
Task = Annotated[
    Literal["yolo", "darknet", "landmarks", "localize", "window", "torchvision"] | None,
    typer.Option(
        "--task",
        help="Find every object (default: yolo), the points on each box, the one object of a photo, or objects "
        "by a sliding window.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="KIND:NAME",
        help="Another detector than detkit's own: torchvision:NAME, or darknet:FILE.cfg.",
    ),
]
Epochs = Annotated[int | None, typer.Option("--epochs", min=1, help="Passes over the photos (default: 30).")]
Time = Annotated[
    str | None,
    typer.Option("--time", metavar="TIME", help="End after 90s, 30m or 1h30m instead; the schedule is planned for it."),
]
Size = Annotated[
    int | None, typer.Option("--size", min=32, help="Side of the canvas in pixels (default: 320), of a window 96.")
]
BatchSize = Annotated[
    str | None, typer.Option("--batch", metavar="N|auto", help="Canvases per step, of all processes (default: 16).")
]
Backbone = Annotated[
    str | None, typer.Option("--backbone", metavar="NAME", help="Network to build on (default: efficientnet_lite0).")
]


_EXTERNAL = {"torchvision": "name", "darknet": "cfg"}  # KIND of --model -> the setting of that task that names it

AllowBad = Annotated[
    int | None,
    typer.Option("--allow-bad", metavar="N", min=0, help="Leave out up to N photos that have errors."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check the data, find anchors, draw the first batch, and train nothing.")
]


def train(
    data: Data = None,
    task: Task = None,
    model: Model = None,
    run: Run = None,
    weights: Start = None,
    epochs: Epochs = None,
    time: Time = None,
    size: Size = None,
    batch: BatchSize = None,
    backbone: Backbone = None,
    config: Config = None,
    set_: Set = None,
    resume: Resume = None,
    format_: options.SourceFormat = None,
    allow_bad: AllowBad = None,
    dry_run: DryRun = False,
    json: options.Json = False,
) -> None:
    """Turn a labelled data set into a model.

    Trains on the split "train", looks at "val" after each epoch and keeps the best weights as best.onnx (to run) and
    best.safetensors (to train on). Ctrl-C keeps everything: the run can be used as it is, or resumed.

    Several processes: torchrun --nproc-per-node 2 -m detkit train ...

    Try it:  detkit train street --time 30m
    """
    need_torch()
    from detkit.train.distributed import join_team

    flags: dict[str, str | int | None] = {"--task": task, "--epochs": epochs, "--time": time, "--size": size}
    flags |= {"--batch": batch, "--backbone": backbone, "--format": format_, "--allow-bad": allow_bad}
    flags |= {"--model": model}
    others: dict[str, object] = {"DATA": data, "--run": run, "--weights": weights, "--config": config}
    others |= {"--set": set_ or None, "--dry-run": dry_run or None}
    beside = [name for name, value in (flags | others).items() if value is not None]
    if resume is not None and beside:
        raise UsageError(
            "--resume goes on with the run's own data and settings; give nothing beside it", found=beside[0]
        )
    with join_team() as team:
        say = terminal.say if team.leads else _say_nothing
        if resume is not None:
            fit = _resumed(resume, team, say)
        else:
            overrides = _overrides(flags) + (set_ or [])
            fit = _begun(_settings(data, weights, config, overrides), run, team, say)
            if dry_run:
                _show_only(fit, say)
                return
            fit.begin()
            say(f"run folder: {fit.folder.path}")
        _run(fit, say, json)


def _run(fit: Fit, say: Callable[[str], None], json: bool) -> None:
    """Train to the end, or until Ctrl-C, and say what came of it."""
    with _stop_on_interrupt(say) as stop:
        finish = terminal.show_training(fit.run(lambda: bool(stop)), talk=fit.team.leads)
    if fit.team.leads and json:
        terminal.print_json({key: str(v) if isinstance(v, Path) else v for key, v in asdict(finish).items()})
    best = "" if finish.best is None else f", val {finish.figure} {finish.best:.3f}"
    say(f"model: {finish.run / 'best.onnx'}{best}")
    if finish.early:
        say(f"ended early: {fit.settings.patience} looks at the val split without a better result")
    if not finish.complete:
        say(f"interrupted; to go on: detkit train --resume {finish.run}")
        raise typer.Exit(ExitCode.INTERRUPTED)


def _show_only(fit: Fit, say: Callable[[str], None]) -> None:
    """The end of a dry run: the first batch as a picture."""
    if fit.team.leads:
        picture = fit.folder.path.with_name(f"{fit.folder.path.name}-first_batch.png")
        try:
            picture.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                "the folder for the picture cannot be made", file=picture.parent, found=error.strerror
            ) from error
        fit.show_first_batch(picture)
        say(f"nothing was trained; the first batch: {picture}")


def _say_nothing(_text: str) -> None:
    """The other processes of a team leave the talking to the first."""


def need_torch(work: str = "training") -> None:
    """MissingExtraError where the train extra is not installed, which `work` needs."""
    try:
        import detkit.train.fit  # noqa: F401  (is everything it needs there?)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("detkit"):
            raise
        raise MissingExtraError(
            f'{work} needs PyTorch and more ({error.name} is missing): pip install "detkit-cv[train]"'
        ) from error


def _overrides(flags: dict[str, str | int | None]) -> list[str]:
    """The options as `key=value` settings."""
    from detkit.train.schedule import parse_time
    from detkit.train.settings import TABLES

    time, batch, task = flags["--time"], flags["--batch"], flags["--task"]
    external = _external(flags)
    if external is not None:
        task = external[0]
    if time is not None and flags["--epochs"] is not None:
        raise UsageError("--time and --epochs contradict each other")
    if batch not in (None, "auto") and not str(batch).isdecimal():
        raise UsageError("--batch", found=repr(batch), expected="a whole number, or auto")
    values = {
        "task": task,
        **({} if external is None else {f"{external[0]}.{_EXTERNAL[external[0]]}": external[1]}),
        "epochs": flags["--epochs"],
        "time_min": None if time is None else parse_time(str(time)),
        "size_px": flags["--size"],
        "batch_size": 0 if batch == "auto" else batch,
        f"{TABLES[str(task or 'yolo')]}.backbone": flags["--backbone"],
        "format": flags["--format"],
        "allow_bad": flags["--allow-bad"],
    }
    return [f"{key}={value}" for key, value in values.items() if value is not None]


def _external(flags: dict[str, str | int | None]) -> tuple[str, str] | None:
    """The task and the detector that `--model` names, where it is given."""
    if flags["--model"] is None:
        return None
    kind, _, name = str(flags["--model"]).partition(":")
    if kind not in _EXTERNAL or not name:
        raise UsageError("--model", found=repr(flags["--model"]), expected="torchvision:NAME or darknet:FILE.cfg")
    if flags["--task"] not in (None, kind):
        raise UsageError(f"--model {kind}:... finds every object; leave --task out", found=flags["--task"])
    if flags["--backbone"] is not None:
        raise UsageError("--model names the whole network; leave --backbone out", found=flags["--backbone"])
    return kind, name


def _settings(data: Path | None, weights: str | None, config: Path | None, overrides: list[str]) -> TrainSettings:
    from detkit.cli.train_checks import check_asked, find_start
    from detkit.config import load
    from detkit.train.settings import WINDOW_PX, TrainSettings, resolve

    if config is None and "task=window" in overrides:
        overrides = [f"size_px={WINDOW_PX}", *overrides]
    settings = load(TrainSettings, config, overrides)
    if data is not None:
        settings = replace(settings, data=data.absolute())
    if weights is not None:
        settings = replace(settings, start=find_start(weights))
    if settings.data is None:
        raise UsageError("no data set given", expected="detkit train DATA, or --resume DIR")
    settings = resolve(settings)
    check_asked(overrides, settings)
    return settings


def _begun(settings: TrainSettings, run: Path | None, team: Team, say: Callable[[str], None]) -> Fit:
    """A new run."""
    from detkit.train.start import begin, check_data, usable_data

    def watch(facts: Iterator[PhotoFacts], total: int) -> Iterator[PhotoFacts]:
        return terminal.progress(facts, total=total, title="checking the data") if team.leads else facts

    report = check_data(settings, watch)
    data = usable_data(report, settings)
    _say_data(data, report, say)
    start = "ImageNet weights" if settings.network.pretrained else settings.start or "random weights"
    say(f"model: {settings.network.backbone} from {start}, {settings.size_px} px, {settings.precision}")
    return begin(data, settings, run, team, lambda plan: _say_plan(plan, say), lambda choice: _say_batch(choice, say))


def _say_data(data: TrainingData, report: CheckReport, say: Callable[[str], None]) -> None:
    """What is used, what is not, and whether there is more to look at."""
    say(f"{report.path}: {report.reason}")
    for part in (data.train, data.val):
        say(terminal.describe_dataset(part))
    if data.left_out_images:
        left = (
            f"{terminal.count(data.left_out_images, 'photo')} and {terminal.count(data.left_out_boxes, 'box', 'boxes')}"
        )
        say(f"left out because of errors: {left}")
    if data.unsuited_images:
        say(f"left out because the task cannot learn from them: {terminal.count(data.unsuited_images, 'photo')}")
    if report.warnings:
        say(f"{terminal.count(len(report.warnings), 'warning')} about the data; see detkit data check {report.path}")


def _say_batch(choice: BatchChoice, say: Callable[[str], None]) -> None:
    tried = ", ".join(f"{n}: {speed:.1f}" for n, speed in choice.images_per_s.items())
    say(f"batch size {choice.batch_size}: {choice.reason} (images/s of each tried: {tried})")


def _resumed(path: Path, team: Team, say: Callable[[str], None]) -> Fit:
    """An interrupted run, where it stood."""
    from detkit.train.start import resume

    fit = resume(path, team)
    at = fit.position
    for part in (fit.train, fit.val):
        say(terminal.describe_dataset(part))
    say(f"resuming {fit.folder.path} at epoch {at.epoch + 1}, batch {at.batch + 1}")
    return fit


def _say_plan(plan: AnchorPlan, say: Callable[[str], None]) -> None:
    """The anchors, how well they fit, and what the grid must lose."""
    fit, lost = plan.fit, plan.collisions
    levels = "  ".join(" ".join(f"{w:.0f}x{h:.0f}" for w, h in level) for level in plan.anchors_wh_px)
    say(
        f"anchors: {levels} px; best possible recall {fit.best_possible_recall:.4f}, "
        f"mean IoU {fit.mean_iou:.3f}, {fit.anchors_per_target:.1f} anchors per box"
    )
    say(
        f"the grid cannot hold {lost.objects_lost_to_crowding} of {lost.objects} boxes (more objects in a cell than "
        f"anchors, {lost.crowded_cells} cells) and cannot tell apart {lost.objects_lost_to_same_shape} (objects of one "
        f"shape in a cell, {lost.same_shape_cells} cells)"
    )


@contextmanager
def _stop_on_interrupt(say: Callable[[str], None]) -> Iterator[list[int]]:
    """A list that Ctrl-C makes non-empty, so that training ends between two steps; a second Ctrl-C ends it at once."""
    stop: list[int] = []

    def remember(number: int, _frame: FrameType | None) -> None:
        stop.append(number)
        signal.signal(number, signal.default_int_handler)
        say("\nstopping after this step; Ctrl-C again to stop at once")

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
