"""`detkit data check`: everything that is wrong with a data set, and what is left of it without the faults.

reading = read_leniently(Path("street"))
facts = list(inspect_photos(reading.photos))
report = judge(reading, facts, size_px=320)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from detkit.data import formats
from detkit.data.check_boxes import box_findings
from detkit.data.check_classes import class_findings, id_findings, ids_from_one
from detkit.data.check_copies import copies
from detkit.data.check_photos import PhotoFacts, inspect_photos, photo_findings
from detkit.data.dataset import Dataset
from detkit.data.findings import CODES, SEVERITIES, Finding, finding_of
from detkit.errors import DataError

SIZE_PX = 320  # the canvas boxes are judged for, as `detkit train` has it by default
Watch = Callable[[Iterator[PhotoFacts], int], Iterable[PhotoFacts]]


@dataclass(frozen=True)
class Reading:
    """Labels read to the end: what could be used, with what was mended, and the faults.

    Args:
        path: what was read. reason: why it was taken for its format.
        datasets: one per split, without photos and boxes that cannot be used.
        findings: the faults.
    """

    path: Path
    reason: str
    datasets: tuple[Dataset, ...]
    findings: tuple[Finding, ...]

    @cached_property
    def photos(self) -> list[Path]:
        """Every photo once, in order."""
        return list(dict.fromkeys(sample.image_path for dataset in self.datasets for sample in dataset))


def read_leniently(path: Path, split: str | None = None, format: formats.Format | None = None) -> Reading:  # noqa: A002
    """Read every split of a data set (or one), collecting faults instead of stopping at the first.

    Args:
        path, split, format: as for `formats.read`; "trainval" is left out where its parts are there.
    Raises:
        DataError: no data set of a known format, or no such split.
    """
    recognition = formats.recognise(path, format)
    names = [name for name in formats.splits(path, format) if split in (None, name)]
    if split is not None and not names:
        formats.read(path, split, format)  # says which splits there are
    if {"trainval", "train", "val"}.issubset(names):
        names.remove("trainval")
    datasets: list[Dataset] = []
    findings: dict[Finding, None] = {}  # some faults are met once per split
    for name in names:
        try:
            dataset = formats.read(path, name, format, report=lambda fault: findings.setdefault(finding_of(fault)))
            datasets.append(dataset)
        except DataError as error:
            findings[finding_of(error)] = None
    return Reading(path, recognition.reason, tuple(datasets), tuple(findings))


@dataclass(frozen=True)
class CheckReport:
    """What a check found.

    Args:
        path, reason: see `Reading`.
        datasets: what could be read, per split, photos with faults included.
        findings: errors first, then warnings and notes; each kind in the order of `CODES`.
    """

    path: Path
    reason: str
    datasets: tuple[Dataset, ...]
    findings: tuple[Finding, ...]

    @cached_property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that lose an image or a box or make one wrong."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @cached_property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that are no errors and no notes."""
        return tuple(finding for finding in self.findings if finding.severity == "warning")

    @cached_property
    def blocking(self) -> tuple[Finding, ...]:
        """The errors that concern the whole set: leaving photos out does not help."""
        lost = ("labels-unreadable", "labels-wrong")
        return tuple(f for f in self.errors if CODES[f.code].whole_set or (f.photo is None and f.code in lost))

    @cached_property
    def usable(self) -> tuple[Dataset, ...]:
        """The splits without the photos that have an error."""
        bad = {finding.photo for finding in self.errors}
        return tuple(
            replace(dataset, samples=tuple(sample for sample in dataset if sample.image_path not in bad))
            for dataset in self.datasets
        )

    @property
    def images_used(self) -> int:
        """Photos without an error."""
        return sum(len(dataset) for dataset in self.usable)

    @property
    def boxes_used(self) -> int:
        """Boxes on them."""
        return sum(dataset.box_count for dataset in self.usable)

    @cached_property
    def images_left_out(self) -> int:
        """Photos with an error, and labels without a photo."""
        orphans = {(f.file, f.line, f.found) for f in self.errors if f.photo is None and f not in self.blocking}
        return len({f.photo for f in self.errors if f.photo is not None}) + len(orphans)

    @cached_property
    def boxes_left_out(self) -> int:
        """Boxes on photos with an error, and boxes that could not be read."""
        readable = sum(dataset.box_count for dataset in self.datasets) - self.boxes_used
        return readable + sum(finding.boxes for finding in self.errors)

    def top(self, count: int) -> tuple[Finding, ...]:
        """The first finding of each kind, most frequent kinds first, errors before the rest."""
        frequency = Counter(finding.code for finding in self.findings)
        first: dict[str, Finding] = {}
        for finding in self.findings:
            first.setdefault(finding.code, finding)
        order = sorted(first.values(), key=lambda f: (SEVERITIES.index(f.severity), -frequency[f.code]))
        return tuple(order[:count])

    def for_training(self, allow_bad: int = 0) -> tuple[Dataset, ...]:
        """The splits without the photos that have an error.

        Args:
            allow_bad: how many photos (and labels without one) may be left out.
        Raises:
            DataError: more are bad, the whole set is, or a split has no photo left; names the top findings.
        """
        emptied = [dataset.split for dataset in self.usable if not len(dataset)]
        if not self.blocking and self.images_left_out <= allow_bad and not emptied:
            return self.usable
        if not self.errors:
            raise DataError("no photo to train on", file=self.path, found=f"none in {', '.join(emptied)}")
        counts = Counter(finding.code for finding in self.errors)
        kinds = ", ".join(
            f"{code} ({counts[code]})" for code in dict.fromkeys(f.code for f in self.top(4)) if counts[code]
        )
        hint = f"`detkit data check {self.path}` lists them all, `detkit data fix` mends what it can"
        if not self.blocking and not emptied:
            hint += f", --allow-bad {self.images_left_out} trains without these images"
        count, images = len(self.errors), self.images_left_out
        what = f"{count} error{'s' * (count != 1)} on {images} image{'s' * (images != 1)}: {kinds}"
        what += f"; the first: {self.top(1)[0]}"
        raise DataError(f"{what}; {hint}", file=self.path)


def judge(reading: Reading, facts: Iterable[PhotoFacts], size_px: int = SIZE_PX) -> CheckReport:
    """Everything that is wrong, from the labels read and the photos looked at.

    Args:
        reading: the labels. facts: of all its photos. size_px: side of the canvas to be trained on.
    """
    by_path = {fact.path: fact for fact in facts}
    findings = dict.fromkeys(reading.findings)
    datasets = reading.datasets
    shifted = ids_from_one(datasets, reading.findings)
    if shifted is not None:  # says the same of every box, so the single ones are left out
        findings = {finding: None for finding in findings if finding.code != "class-unknown"} | {shifted: None}
    for dataset in datasets:
        for sample in dataset:
            findings |= dict.fromkeys(photo_findings(sample, by_path[sample.image_path]))
            findings |= dict.fromkeys(box_findings(sample, dataset.class_names, size_px))
    findings |= dict.fromkeys(class_findings(datasets))
    findings |= dict.fromkeys(id_findings(datasets))
    findings |= dict.fromkeys(copies(datasets, by_path.values()))
    return CheckReport(reading.path, reading.reason, datasets, _in_order(findings))


def _in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    order = {code: (SEVERITIES.index(entry.severity), at) for at, (code, entry) in enumerate(CODES.items())}
    return tuple(sorted(findings, key=lambda finding: order[finding.code]))


def check(
    path: Path,
    split: str | None = None,
    format: formats.Format | None = None,  # noqa: A002
    *,
    size_px: int = SIZE_PX,
    fast: bool = False,
    watch: Watch | None = None,
) -> CheckReport:
    """Check a data set.

    Args:
        path, split, format: as for `formats.read`; None checks every split.
        size_px: side of the canvas it will be trained on.
        fast: read the photos' headers only: damage behind them and photos that look alike go unnoticed.
        watch: passes the photos' reports on, with their number: a progress bar.
    Raises:
        DataError: no data set of a known format, or no such split.
    """
    reading = read_leniently(path, split, format)
    facts: Iterable[PhotoFacts] = inspect_photos(reading.photos, decode=not fast)
    if watch is not None:
        facts = watch(iter(facts), len(reading.photos))
    return judge(reading, facts, size_px)


def check_for_training(
    path: Path,
    size_px: int,
    splits: Sequence[str] = ("train", "val"),
    *,
    format: formats.Format | None = None,  # noqa: A002
    fast: bool = False,
    watch: Watch | None = None,
) -> CheckReport:
    """Check the splits a training needs; see `check`.

    Raises:
        DataError: no data set of a known format, or one of the splits is not there.
    """
    readings = [read_leniently(path, split, format) for split in splits]
    datasets = tuple(dataset for reading in readings for dataset in reading.datasets)
    findings = dict.fromkeys(finding for reading in readings for finding in reading.findings)
    reading = Reading(path, readings[0].reason, datasets, tuple(findings))
    facts: Iterable[PhotoFacts] = inspect_photos(reading.photos, decode=not fast)
    return judge(reading, facts if watch is None else watch(iter(facts), len(reading.photos)), size_px)
