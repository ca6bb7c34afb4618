"""A and B of `detkit compare` and `detkit gate`: what each names, the data both are measured on, and their boxes."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from detkit.cli import terminal
from detkit.data import formats
from detkit.data.dataset import Dataset, check_class_names
from detkit.detections import Detections
from detkit.engines import EngineName, weights_suffix
from detkit.errors import DataError, UsageError, WeightsError
from detkit.evaluate.coco import CONF_FLOOR, MAX_DET
from detkit.evaluate.intervals import DRAWS, LEVEL
from detkit.weights import ModelCard, find_weights, read_card

_RESULTS = (".json", ".jsonl")
_WHAT = "A run folder, a model file, the name of a shipped model, or boxes: COCO results or what detkit detect wrote."

ModelA = Annotated[str, typer.Argument(metavar="A", help=f"The model to beat. {_WHAT}", show_default=False)]
ModelB = Annotated[str, typer.Argument(metavar="B", help="The other, named in any of these ways.", show_default=False)]
Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DATA", help="Labelled photos to measure both on (default: those of the runs)."),
]
Split = Annotated[
    str | None, typer.Option("--split", metavar="NAME", help="Which part of the data.  [default: val, or the only one]")
]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Photos per run of the network.")]
Draws = Annotated[int, typer.Option("--draws", min=2, help="Resampled sets behind the intervals.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of the draws: the same seed gives the same intervals.")]
Level = Annotated[float, typer.Option("--level", min=0, max=1, help="Of the intervals, between 0 and 1.")]
DEFAULT_DRAWS, DEFAULT_LEVEL = DRAWS, LEVEL


@dataclass(frozen=True, slots=True)
class Contender:
    """A or B.

    Args:
        letter: "A" or "B".
        given: what the user typed.
        file: the model or results file; a folder that `detkit detect` wrote.
        card: the model's; None for a file of results.
        data, format: the data set of the run it comes from, where it comes from one that tells.
    """

    letter: str
    given: str
    file: Path
    card: ModelCard | None = None
    data: Path | None = None
    format: formats.Format | None = None

    @property
    def name(self) -> str:
        """What people would call it: the run's folder, the shipped model's name, the file's."""
        return Path(self.given).name or self.given


@dataclass(frozen=True, slots=True)
class Pair:
    """Both sides, and the photos they are to be measured on."""

    dataset: Dataset
    sides: tuple[Contender, Contender]

    @property
    def names(self) -> tuple[str, str]:
        """What to call them in sentences; A and B where their names do not tell them apart."""
        a, b = (side.name for side in self.sides)
        return (a, b) if a != b else ("A", "B")

    def to_dict(self) -> dict[str, Any]:
        """What was measured on what, as plain JSON values."""
        where = {"data": str(self.dataset.source), "split": self.dataset.split, "format": self.dataset.format}
        files = {side.letter.lower(): {"given": side.given, "file": str(side.file)} for side in self.sides}
        return {**files, **where, "data_sha256": self.dataset.content_hash()}

    def detect(self, backend: EngineName, batch: int) -> tuple[Sequence[Detections], Sequence[Detections]]:
        """The boxes of both sides, one `Detections` per photo; a model that is on both sides runs once."""
        a, b = self.sides
        found_a = _boxes(a, self.dataset, backend, batch)
        alike = b.file.absolute() == a.file.absolute()
        return found_a, found_a if alike else _boxes(b, self.dataset, backend, batch)


def meet(
    given: tuple[str, str], data: Path | None, split: str | None, format_: formats.Format | None, backend: EngineName
) -> Pair:
    """Find both sides and their data, and make sure that they fit.

    Raises:
        DetkitError: a side cannot be found or used, or the two cannot be compared.
    """
    a, b = (_find(letter, text, backend) for letter, text in zip("AB", given, strict=True))
    _check_alike(a, b)
    dataset = _dataset((a, b), data, split, format_)
    for side in (a, b):
        if side.card is not None:
            check_class_names(side.card.class_names, dataset)
    _note_training((a, b), dataset)
    return Pair(dataset, (a, b))


def check_target(option: str, target: Path | None, pair_of: Sequence[str | Path | None]) -> None:
    """Refuse before the long work a file that could not be written after it, or that is one of the inputs."""
    if target is None:
        return
    if not target.absolute().parent.is_dir():
        raise UsageError(f"{option}: no such folder", file=target.parent)
    inputs = [Path(each) for each in pair_of if each is not None]
    if target.is_dir() or (target.exists() and any(each.exists() and target.samefile(each) for each in inputs)):
        raise UsageError(f"{option} would overwrite what is compared", file=target, expected="another file")


def _find(letter: str, given: str, backend: EngineName) -> Contender:
    path = Path(given)
    if path.suffix.lower() in _RESULTS or (path / "detections.jsonl").is_file():
        if not path.exists():
            raise DataError(f"{letter}: no such results", file=path)
        return Contender(letter, given, path)
    if not path.is_dir():
        file = find_weights(given, weights_suffix(backend))
        return Contender(letter, given, file, _card(file))
    file = path / f"best{weights_suffix(backend)}"
    if not file.is_file():
        expected = f"{file.name} (a run that has looked at its val split) or detections.jsonl"
        raise WeightsError(f"{letter}: nothing to measure in this folder", file=path, expected=expected)
    source, format_ = _run_data(path)
    return Contender(letter, given, file, _card(file), source, format_)


def _card(file: Path) -> ModelCard:
    card = read_card(file)
    if card.task == "landmarks":
        raise WeightsError("a model of points cannot be compared box by box", file=file, expected="a detector")
    return card


def _run_data(run: Path) -> tuple[Path | None, formats.Format | None]:
    """The data set a run was trained on, as its config.toml has it."""
    try:
        settings = tomllib.loads((run / "config.toml").read_text("utf-8"))
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", file=run / "config.toml") from error
    source, format_ = settings.get("data"), settings.get("format")
    known = format_ in ("coco", "yolo", "voc", "csv")
    return (Path(source) if isinstance(source, str) else None), (cast(formats.Format, format_) if known else None)


def _check_alike(a: Contender, b: Contender) -> None:
    """One clear error for two models of other classes, whatever the data."""
    if a.card is None or b.card is None or a.card.class_names == b.card.class_names:
        return
    names_a, names_b = a.card.class_names, b.card.class_names
    only_a, only_b = [n for n in names_a if n not in names_b], [n for n in names_b if n not in names_a]
    how = f"only A: {_few(only_a)}; only B: {_few(only_b)}" if only_a or only_b else "they stand in another order"
    raise WeightsError(f"A ({a.given}) and B ({b.given}) know other classes: {how}; only like can be compared")


def _few(names: Sequence[str]) -> str:
    return (", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")) or "none"


def _dataset(
    sides: tuple[Contender, Contender], data: Path | None, split: str | None, format_: formats.Format | None
) -> Dataset:
    """The data named, else that of the runs."""
    if data is None:
        known = {side.data.absolute(): side for side in sides if side.data is not None}
        if len(known) != 1:
            found = " and ".join(f"{side.letter} on {side.data}" for side in known.values())
            raise UsageError("on which photos? name them with --data", found=f"trained: {found}" if found else None)
        [(data, side)] = known.items()
        format_ = format_ or side.format
        if not data.exists():
            raise DataError(f"the data set of run {side.letter} is not there; name it with --data", file=data)
    stored = all(side.card is None for side in sides)  # stored boxes need no photos on disk
    dataset = read_split(data, split, format_, need_photos=not stored)
    terminal.say(f"{data}: {formats.recognise(data, format_).reason}")
    terminal.say(terminal.describe_dataset(dataset))
    return dataset


def read_split(data: Path, split: str | None, format_: formats.Format | None, *, need_photos: bool = True) -> Dataset:
    """The split asked for; unasked, the only one there is, else val. Without `need_photos` labels alone will do."""
    names = [split] if split is not None else formats.splits(data, format_)
    chosen = "val" if len(names) > 1 and "val" in names else split
    return formats.read(data, chosen, format_, need_photos=need_photos)


def _note_training(sides: tuple[Contender, Contender], dataset: Dataset) -> None:
    """Say what the models' cards tell of their training that bears on the comparison."""
    hashes = [None if side.card is None else side.card.training.get("data_sha256") for side in sides]
    here = dataset.content_hash()
    for side, own in zip(sides, hashes, strict=True):
        if own == here:
            terminal.warn(f"{side.letter} ({side.given}) was trained on these very photos: its figures flatter it")
    if None not in hashes and hashes[0] != hashes[1]:
        terminal.say("A and B were trained on different labels")


def _boxes(side: Contender, dataset: Dataset, backend: EngineName, batch: int) -> Sequence[Detections]:
    """The boxes of one side, one `Detections` per photo."""
    if side.card is None:
        from detkit.evaluate.results_file import read_results

        results = read_results(side.file, dataset)
        terminal.say(f"{side.letter}: boxes from {side.file}")
        for note in results.notes:
            terminal.say(f"{side.letter}: {note}")
        return results
    from detkit.infer.predictor import Predictor

    predictor = Predictor(side.file, conf=CONF_FLOOR, max_det=MAX_DET, engine=backend)
    found = predictor.predict_files([sample.image_path for sample in dataset], batch=batch)
    boxes = list(terminal.progress(found, total=len(dataset), title=f"detecting, {side.letter}"))
    terminal.say(f"{side.letter}: boxes by {side.file} on {predictor.engine.name}")
    return boxes
