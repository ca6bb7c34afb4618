"""A corpus cut into blocks, and a file of results for each: whole or not there, so that what is there is done."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from detkit.errors import RunError, UsageError
from detkit.files import replacing
from detkit.infer.frames import Item
from detkit.infer.journal import Journal, read_journal, read_records, remove_partial_files
from detkit.infer.records import Record, json_line
from detkit.infer.sinks.jsonl import JsonlFile

if TYPE_CHECKING:
    from detkit.infer.parquet import ParquetFile

PartFormat = Literal["jsonl", "parquet"]
BLOCK_PHOTOS = 64  # a few seconds of work: little is lost with a worker, and starting a block costs nothing beside it
_MOST_TRIES = 3  # of a block whose workers die
_COPIED_BYTES = 1 << 20
_RUN_NAME = "_run.jsonl"  # readers of Parquet folders pass over names with a _


@dataclass(frozen=True, slots=True)
class Block:
    """Items that are worked through by one worker, with their positions in the whole run."""

    number: int
    items: tuple[tuple[int, Item], ...]


@dataclass(slots=True)
class Tally:
    """What is in some records: pictures, objects of each class, and what was said of errors and damaged videos."""

    pictures: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """Count a record."""
        if record.get("detections") is not None:
            self.pictures += 1
            self.objects.update(one["class"] for one in record["detections"])
        if record["kind"] == "error":
            self.errors.append(record["error"])
        elif record.get("warning"):
            self.warnings.append(f"{record['name']}: {record['warning']}")

    def merge(self, other: Tally) -> None:
        """Count what another one counted."""
        self.pictures += other.pictures
        self.objects.update(other.objects)
        self.errors += other.errors
        self.warnings += other.warnings


def cut(items: Sequence[tuple[int, Item]], photos: int = BLOCK_PHOTOS) -> list[Block]:
    """The items in blocks of so many photos, in their order; a video is a block of its own."""
    groups: list[list[tuple[int, Item]]] = []
    for index, item in items:
        is_with_last = groups and item.kind == groups[-1][-1][1].kind == "photo" and len(groups[-1]) < photos
        if not is_with_last:
            groups.append([])
        groups[-1].append((index, item))
    return [Block(number, tuple(group)) for number, group in enumerate(groups)]


class Parts:
    """A file for each block that is done, below a folder of results: parts/part-000012.jsonl, to be joined, or
    detections.parquet/part-000012.parquet, to stay.

    Several machines may write at the same time, each its own blocks; the disk must be one they share.
    """

    def __init__(self, out: Path, form: PartFormat = "jsonl") -> None:
        """Name the folder below `out`; nothing is touched."""
        self.folder, self.form = out / ("parts" if form == "jsonl" else "detections.parquet"), form
        self._run = self.folder / _RUN_NAME

    def file(self, number: int) -> Path:
        """Where the results of a block are."""
        return self.folder / f"part-{number:06d}.{self.form}"

    def done(self, blocks: Sequence[Block]) -> set[int]:
        """The numbers of the blocks whose file is there."""
        present = {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()
        return {block.number for block in blocks if self.file(block.number).name in present}

    def begin(self, header: Record, blocks: Sequence[Block], *, resume: bool) -> None:
        """Make the folder, or make sure that a run which was broken off goes on with the same blocks and settings.

        Raises:
            UsageError: an earlier run's parts are there, and they are not to be gone on with, or cannot be.
            RunError: the folder cannot be written.
        """
        run = header | {"settings": header["settings"] | {"blocks": _digest(blocks)}}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            earlier = read_journal(self._run)
            visible = {path.name for path in self.folder.iterdir() if not path.name.startswith(".")}
            if earlier is None and visible:
                raise UsageError("holds files that are no parts of a run; give another --out", file=self.folder)
            if earlier is not None and len(visible) > 1:
                self._check(earlier, run, resume)
            remove_partial_files(self.folder)
            for tries in self.folder.glob(".*.tries"):
                tries.unlink(missing_ok=True)
        except OSError as error:
            raise RunError("cannot be written", file=self.folder, found=error.strerror) from error
        with replacing(self._run) as partial:
            partial.write_bytes(json_line(run))

    def write(self, block: Block, header: Record, records: Iterable[Record]) -> Tally:
        """Write a block's file.

        Args:
            header: the "run" record, which every file holds: the first line, or Parquet's metadata under "detkit".
            records: of the block, made while they are written.
        Raises:
            RunError: it cannot be written, or its workers die again and again.
        """
        tally, tries = Tally(), self.folder / f".{block.number:06d}.tries"
        with replacing(self.file(block.number)) as partial:
            self._count_try(tries, block)
            with closing(_writer(partial, header)) as part:
                for record in records:
                    part.write(record)
                    tally.add(record)
        with suppress(OSError):  # it is in nobody's way
            tries.unlink(missing_ok=True)
        return tally

    def read(self, number: int) -> Iterator[Record]:
        """The records of a block that is done; those from Parquet have None for what a record does not say."""
        if self.form == "jsonl":
            return (record for record in read_records(self.file(number)) if record["kind"] != "run")
        from detkit.infer.parquet import read_rows

        return read_rows(self.file(number))

    def tally(self, number: int) -> Tally:
        """What is in a block that is done."""
        tally = Tally()
        for record in self.read(number):
            tally.add(record)
        return tally

    def check_complete(self, blocks: Sequence[Block]) -> None:
        """Make sure that every block's file is there.

        Raises:
            RunError: some are not, because workers wrote them to disks of their own.
        """
        missing = len(blocks) - len(self.done(blocks))
        if missing:
            what = "lacks parts that were written: all machines must see this folder on one shared disk"
            raise RunError(what, file=self.folder, found=f"{missing} of {len(blocks)} missing")

    def join(self, target: Path, header: Record, blocks: Sequence[Block], earlier: Journal | None = None) -> None:
        """Make one JSONL file of all parts, after what an earlier run wrote to it, and remove the parts.

        Raises:
            RunError: a part is missing, or the file cannot be written; the parts stay.
        """
        self.check_complete(blocks)
        with replacing(target) as partial, partial.open("wb") as joined:
            lines = JsonlFile(joined, partial)
            lines.write(header) if earlier is None else lines.replay(earlier)
            for block in blocks:
                with self.file(block.number).open("rb") as part:
                    part.readline()  # the header
                    shutil.copyfileobj(part, joined, _COPIED_BYTES)
        self.remove()

    def remove(self) -> None:
        """Remove the parts, and the folder when nothing else is in it."""
        with suppress(OSError, RunError):  # results are safe elsewhere; the next run says that parts are left
            remove_partial_files(self.folder)
            for path in [*self.folder.glob("part-*"), *self.folder.glob(".*.tries"), self._run]:
                path.unlink(missing_ok=True)
            self.folder.rmdir()

    def _check(self, earlier: Journal, run: Record, resume: bool) -> None:
        if not resume:
            what = "holds parts of an earlier run; go on with it with --resume, or give another --out"
            raise UsageError(what, file=self.folder)
        if earlier.header["settings"].get("blocks") != run["settings"]["blocks"]:
            what = "holds parts of a run over other pictures, so it cannot be resumed with these; give another --out"
            raise UsageError(what, file=self.folder)
        earlier.check_same_run(run)

    def _count_try(self, tries: Path, block: Block) -> None:
        """Note that a worker begins; a block that ends every worker must not end the next ones too."""
        with tries.open("ab") as stream:
            stream.write(b".")
            count = stream.tell()
        if count > _MOST_TRIES:
            first, last = block.items[0][1].name, block.items[-1][1].name
            what = f"the workers of this part died {_MOST_TRIES} times (out of memory?)"
            raise RunError(what, file=self.file(block.number), found=f"{first} to {last}")


def _digest(blocks: Sequence[Block]) -> str:
    """Equal for the same items cut in the same way."""
    names = [[item.name for _, item in block.items] for block in blocks]
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()


def _writer(partial: Path, header: Record) -> JsonlFile | ParquetFile:
    """What writes records to a file."""
    if partial.suffix == ".jsonl":
        return JsonlFile.new(partial, header)
    from detkit.infer.parquet import ParquetFile

    return ParquetFile(partial, header)
