"""What `detkit detect` prints of its results: tables of photos and videos, and a last line."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from detkit.cli import terminal

_MOST_ROWS = 1000  # of the table of photos; beyond them nobody reads it, and memory is not for rows
_PHOTO_HEADERS = ["photo", "class", "score", "x1", "y1", "x2", "y2"]
_VIDEO_HEADERS = ["video", "class", "frames", "most at once", "tracks"]


@dataclass(slots=True)
class _Film:
    """What was found in one video by now."""

    frames: int = 0
    frames_with: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    tracks: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))


class Tables:
    """Takes the records of a run one by one and prints them at its end."""

    def __init__(self) -> None:
        self.pictures = self.objects = 0
        self._earlier = 0
        self._rows: list[list[str]] = []
        self._left_out = 0
        self._films: dict[str, _Film] = {}
        self._ends: list[dict[str, Any]] = []

    def add(self, record: dict[str, Any]) -> None:
        """Take a record."""
        found = record.get("detections")
        if found is not None:
            self.pictures += 1
            self.objects += len(found)
        if record["kind"] == "error":
            self._add_row([record["name"], "(unreadable)", *[""] * 5])
        elif record["kind"] == "video":
            self._ends.append(record)
        elif record["kind"] == "frame":
            self._add_frame(record)
        else:
            self._add_photo(record)

    def begin(self) -> None:
        """What was taken by now is of an earlier run: it does not count for the pace."""
        self._earlier = self.pictures

    def print(self, counts_of_photos: Mapping[str, Any]) -> None:
        """Print the tables there is something for, and what crossed lines in photos."""
        if self._rows:
            terminal.print_table(_PHOTO_HEADERS, self._rows, right=_PHOTO_HEADERS[2:])
        if self._left_out:
            terminal.say(f"... and {terminal.count(self._left_out, 'more row')}; --jsonl FILE has them all")
        if self._films:
            rows = [row for name, film in self._films.items() for row in _film_rows(name, film)]
            has_tracks = any(any(film.tracks.values()) for film in self._films.values())
            headers = _VIDEO_HEADERS if has_tracks else _VIDEO_HEADERS[:-1]
            terminal.print_table(headers, [row[: len(headers)] for row in rows], right=headers[2:])
        for end in self._ends:
            _say_counts(f"{end['name']}: ", end.get("counts", {}))
            if end.get("dropped"):
                terminal.say(f"{end['name']}: {end['dropped']} frames came faster than they could be looked at")
        _say_counts("", counts_of_photos)

    def summary(self, took_s: float) -> str:
        """How much was found in how much, and how fast."""
        frames = sum(film.frames for film in self._films.values())
        photos = self.pictures - frames
        seen = [terminal.count(number, name) for number, name in ((photos, "photo"), (frames, "frame")) if number]
        new = self.pictures - self._earlier
        each = "each" if photos and frames else "a photo" if photos else "a frame"
        pace = f", {1000 * took_s / new:.0f} ms {each}" if new else ""
        return f"{terminal.count(self.objects, 'object')} in {' and '.join(seen) or '0 photos'}{pace}"

    def _add_row(self, row: list[str]) -> None:
        if len(self._rows) < _MOST_ROWS:
            self._rows.append(row)
        else:
            self._left_out += 1

    def _add_photo(self, record: dict[str, Any]) -> None:
        for one in record["detections"]:
            box = [f"{value:.0f}" for value in one["box_xyxy"]]
            self._add_row([record["name"], one["class"], f"{one['score']:.2f}", *box])
        if not record["detections"]:
            self._add_row([record["name"], "(nothing)", *[""] * 5])

    def _add_frame(self, record: dict[str, Any]) -> None:
        film = self._films.setdefault(record["name"], _Film())
        film.frames += 1
        for name, count in Counter(one["class"] for one in record["detections"]).items():
            film.frames_with[name] += 1
            film.most[name] = max(film.most[name], count)
        for one in record["detections"]:
            if "track_id" in one:
                film.tracks[one["class"]].add(one["track_id"])


def _say_counts(of: str, counts: Mapping[str, Any]) -> None:
    for line, by_class in counts.items():
        each = [f"{name} {ways['in']} in, {ways['out']} out" for name, ways in by_class.items()]
        terminal.say(f"{of}over {line}: {'; '.join(each) or 'nothing'}")


def _film_rows(name: str, film: _Film) -> list[list[str]]:
    rows = [
        [name, each, f"{frames} of {film.frames}", str(film.most[each]), str(len(film.tracks[each]) or "")]
        for each, frames in film.frames_with.most_common()
    ]
    return rows or [[name, "(nothing)", f"0 of {film.frames}", "", ""]]
