"""How the outputs of an item are called: settled from all items of a run, so that every shard of it agrees."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePath

from detkit.errors import UsageError
from detkit.infer.frames import Item
from detkit.infer.records import Record

_RESERVED = frozenset({"crops", "labels", "annotations"})  # folders of our own beside the pictures
_FRAME = re.compile(r"(.*)_[0-9]{6,}$", re.DOTALL)


class OutputNames:
    """One name for each item, which no other item's outputs have: sub/a for sub/a.jpg, sub/a-2 for sub/a.png.

    Frames of a video are the video's name and their number, sub/clip_000123. Upper and lower case are the same.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        """Settle the names of all items of the run, in their order, those of other shards included."""
        items = tuple(items)
        self._stems: dict[str, PurePath] = {}
        self._photos: set[str] = set()
        self._videos: set[str] = set()
        self._before_number: set[str] = set()  # "clip" of a photo clip_000123
        self._next: dict[str, int] = {}
        self._items = {item.name: item for item in items}
        self._inputs = {os.path.realpath(item.path) for item in items if item.path is not None}
        for item in items:
            self.stem(item)
        below = {item.relative for item in items}
        self._relative_is_clear = len(below) == len(items)

    def stem(self, item: Item) -> PurePath:
        """The item's name without a suffix: a relative path that leads nowhere else."""
        if item.name not in self._stems:
            self._items.setdefault(item.name, item)
            self._stems[item.name] = self._claimed(_inside(item.relative), is_photo=item.kind == "photo")
        return self._stems[item.name]

    def below(self, folder: Path, item: Item, number: int | None, suffix: str) -> Path:
        """Where an output of the item lies, or of a frame of it: `folder`/sub/clip_000123.txt."""
        stem = self.stem(item)
        frame = "" if number is None else f"_{number:06d}"
        return folder / stem.with_name(f"{stem.name}{frame}{suffix}")

    def file_name(self, record: Record) -> str:
        """What label files call an item: its path below the folder it was found in, or, where two items would have
        the same, each as it was given."""
        item = self._items.get(record["name"])
        return item.relative.as_posix() if item is not None and self._relative_is_clear else record["name"]

    def picture_name(self, record: Record) -> str:
        """`file_name` of a photo; for a frame, what a picture of it would be called, sub/clip_000123.jpg."""
        if record["kind"] == "photo":
            return self.file_name(record)
        item = self._items.get(record["name"])
        stem = PurePath(record["name"]).with_suffix("") if item is None else self.stem(item)
        return f"{stem.as_posix()}_{record['frame']:06d}.jpg"

    def refuse_input(self, target: Path) -> None:
        """Raise UsageError where a file to be written is one of those that are read."""
        if target.exists() and os.path.realpath(target) in self._inputs:
            raise UsageError("an output would replace this input; give another --out", file=target)

    def _claimed(self, stem: PurePath, *, is_photo: bool) -> PurePath:
        taken = self._photos if is_photo else self._videos
        key = _key(stem)
        free, count = stem, self._next.get(f"{is_photo}{key}", 1)
        while not self._is_free(key, is_photo):
            count += 1
            free = stem.with_name(f"{stem.name}-{count}")
            key = _key(free)
        self._next[f"{is_photo}{_key(stem)}"] = count
        taken.add(key)
        if is_photo and (match := _FRAME.match(key)):
            self._before_number.add(match[1])
        return free

    def _is_free(self, key: str, is_photo: bool) -> bool:
        if not is_photo:
            return key not in self._videos and key not in self._before_number
        match = _FRAME.match(key)
        return key not in self._photos and (match is None or match[1] not in self._videos)


def _inside(relative: Path) -> PurePath:
    """The path without its suffix, without anything that leads elsewhere, and not in a folder that is ours."""
    parts = [part for part in relative.parts if part not in (relative.anchor, "..", ".")] or ["unnamed"]
    if len(parts) > 1 and parts[0].casefold() in _RESERVED:
        parts[0] += "-2"
    path = PurePath(*parts)
    return path.with_name(path.stem)


def _key(path: PurePath) -> str:
    return unicodedata.normalize("NFC", path.as_posix()).casefold()
