"""YOLO txt: `data.yaml` or `classes.txt`, photos under `images/`, one label file per photo under `labels/`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from detkit import boxes
from detkit.data.dataset import Dataset, Sample
from detkit.data.folders import PHOTO_SUFFIXES, PhotoFinder, by_split, inner_name, new_folder, photos_below, place_photo
from detkit.data.label_files import checked_class_names, choose_split, placed, read_bytes, read_lines, split_word, wrong
from detkit.detections import Detections
from detkit.errors import DataError
from detkit.images import read_size_hw

LOOKED_FOR = "data.yaml, labels/ beside images/, or a .txt beside each photo"
_SPLITS = ("train", "val", "test")
_CLASS_FILES = ("classes.txt", "obj.names", "classes.names", "labels/classes.txt")
_NO_LABELS = re.compile(r"(classes|train|val|valid|test|readme.*)\.txt$", re.IGNORECASE)
_YAML = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # plain texts only: a class called "no" stays "no"
_MAX_YAML_BYTES, _MAX_YAML_DEPTH = 1 << 20, 10
_SLACK, _TINY = 1e-3, 1e-6  # how far above 1 a rounded fraction may be; below, a box has no area as float32


def splits(path: Path) -> dict[str, Path]:
    """The splits at `path` (a folder or a data.yaml) and what lists each one's photos; empty when it is not YOLO."""
    file = _yaml_file(path)
    config = {} if file is None else _load_yaml(file)
    named = {name: file for name in _SPLITS if file is not None and _entries(config, name, file)}
    return named if named or not path.is_dir() else _layout(path)


def _layout(home: Path) -> dict[str, Path]:
    """The list files or photo folders of a data set whose yaml, if it has one, names only classes."""
    lists = {split_word(f.stem): f for f in sorted(home.glob("*.txt")) if f.stem in (*_SPLITS, "valid")}
    if lists and any((home / name).is_file() for name in _CLASS_FILES):
        return lists
    if (home / "labels").is_dir() and (home / "images").is_dir():
        inner = [folder for folder in sorted((home / "images").iterdir()) if folder.is_dir()]
        named = {split_word(folder.name): folder for folder in inner}
        return named if len(named) == len(inner) > 0 and "" not in named else {"": home / "images"}
    named = {split_word(f.parent.name) or f.parent.name: f for f in sorted(home.glob("*/images"))}
    if named and all((f.parent / "labels").is_dir() for f in named.values()):
        return named
    photos = {file.stem for file in home.glob("*.*") if file.suffix.lower() in PHOTO_SUFFIXES}
    return {"": home} if any(file.stem in photos for file in home.glob("*.txt")) else {}


def read(path: Path, split: str | None = None) -> Dataset:
    """Read YOLO labels; a photo without a label file has no objects, and a polygon becomes the box around it.

    Args:
        path: the data set's folder, or its data.yaml.
        split: "train", "val", ...; None where there is only one.
    Returns:
        The split; `truth.points_xyv` is there when data.yaml has a `kpt_shape`, `truth.crowd` never.
    Raises:
        DataError: no such split, or a file that cannot be used as a whole.
    """
    path = path.absolute()
    name, place = choose_split(splits(path), split, path)
    file = _yaml_file(path)
    config = {} if file is None else _load_yaml(file)
    home = path if path.is_dir() else path.parent
    class_names = _class_names(home, config, file)
    sources = [place] if place != file else [_found(entry, config, place) for entry in _entries(config, name, place)]
    photos = list(_photos(sources))
    top = os.path.commonpath({str(photo.parent) for photo in photos})
    shape = len(class_names), *_point_shape(config, file)
    rows = enumerate(zip(photos, _label_files(photos), strict=True), 1)
    samples = [Sample(p.relative_to(top).as_posix(), p, _truth(p, labels, *shape), i) for i, (p, labels) in rows]
    ids = tuple(range(1, len(class_names) + 1))
    return Dataset(home.name, class_names, tuple(samples), file or path, "yolo", name, ids)


def _yaml_file(path: Path) -> Path | None:
    """The path itself, data.yaml or dataset.yaml in it, or its only YAML file with class names."""
    if path.is_file():
        return path if path.suffix.lower() in (".yaml", ".yml") else None
    files = [file for file in sorted(path.glob("*.y*ml")) if file.is_file()]
    named = [file for file in files if file.stem in ("data", "dataset")]
    named = named or [f for f in files if re.search(rb"(?m)^names\s*:", read_bytes(f, may_be_empty=True))]
    if len(named) > 1:
        raise DataError("several data files", file=path, found=", ".join(f.name for f in named), expected="one")
    return named[0] if named else None


def _load_yaml(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file, all scalars as text; aliases and deep nesting, which can explode, are refused."""
    content = read_bytes(file)
    if len(content) > _MAX_YAML_BYTES:
        raise DataError("too large for a list of folders and names", file=file, expected="at most 1 MB")
    depth = 0
    try:
        for event in yaml.parse(content, Loader=_YAML):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > _MAX_YAML_DEPTH:
                raise DataError("aliases and deep nesting are refused", file=file)
        config = yaml.load(content, Loader=_YAML)  # noqa: S506 - the base loader makes nothing but text
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        what = f"not valid YAML: {getattr(error, 'problem', None) or 'unreadable text'}"
        raise DataError(what, file=file, line=mark.line + 1 if mark else None) from error
    if not isinstance(config, dict):
        raise wrong("not a YOLO data file", file, config, "a mapping with names, train and val")
    return config


def _entries(config: dict[str, Any], split: str, file: Path) -> list[str]:
    """What data.yaml says about one split: folders or list files; none where it is absent or null."""
    entries = config.get(split, config.get("valid", "") if split == "val" else "")
    entries = entries if isinstance(entries, list) else [entries]
    if not all(isinstance(entry, str) for entry in entries):
        raise wrong(f"{split} is wrong", file, entries, "a folder, a list file, or a list of them")
    return [entry for entry in entries if entry not in ("", "~", "null")]


def _found(entry: str, config: dict[str, Any], file: Path) -> Path:
    """The folder or list file an entry means: from `path`, from the yaml's folder, and without a stray `../`."""
    base = config.get("path", ".")
    if not isinstance(base, str):
        raise wrong("path is wrong", file, base, "a folder")
    tried = dict.fromkeys([file.parent / base / entry, file.parent / entry, file.parent / entry.removeprefix("../")])
    for place in tried:
        with suppress(OSError):  # a name too long
            if place.is_dir() or (place.is_file() and place.suffix.lower() == ".txt"):
                return Path(os.path.normpath(place))
    raise DataError(f"{entry!r} is no folder and no .txt list; tried {', '.join(map(str, tried))}", file=file)


def _class_names(home: Path, config: dict[str, Any], file: Path | None) -> tuple[str, ...]:
    """The names in data.yaml, a list or numbered from 0; without a yaml those in classes.txt."""
    if file is None:
        for place in (home / name for name in _CLASS_FILES):
            if place.is_file():
                return checked_class_names(read_lines(place), place)
        raise DataError("no class names", file=home, expected=f"data.yaml or {' or '.join(_CLASS_FILES)}")
    names = config.get("names")
    if isinstance(names, dict):
        if set(names) != {str(number) for number in range(len(names))}:
            raise wrong("names are not numbered from 0 without gaps", file, list(names), f"0 to {len(names) - 1}")
        names = [names[str(number)] for number in range(len(names))]
    if not isinstance(names, list):
        raise wrong("names is wrong", file, names, "a list of class names")
    checked = checked_class_names(names, file)
    if config.get("nc", str(len(checked))) != str(len(checked)):
        raise wrong("nc does not fit the names", file, config["nc"], str(len(checked)))
    return checked


def _point_shape(config: dict[str, Any], file: Path | None) -> tuple[int, int]:
    """`kpt_shape`: how many points each object has, and with how many numbers; (0, 3) without points."""
    shape = config.get("kpt_shape", ["0", "3"])
    if not isinstance(shape, list) or not re.fullmatch("[0-9]{1,3} [23]", " ".join(map(str, shape))):
        raise wrong("kpt_shape is wrong", file, shape, "[points, 2 or 3]")
    return int(shape[0]), int(shape[1])


def _photos(sources: Sequence[Path]) -> Iterator[Path]:
    seen: set[Path] = set()
    for source in sources:
        for photo in photos_below(source, set()) if source.is_dir() else _listed(source):
            if photo in seen:
                raise DataError("the photo is listed twice", file=source, found=photo)
            seen.add(photo)
            yield photo
    if not seen:
        raise DataError("no photos", file=sources[0], expected=", ".join(sorted(PHOTO_SUFFIXES)))


def _listed(file: Path) -> Iterator[Path]:
    finder = PhotoFinder([file.parent, file.parent.parent])
    for number, line in enumerate(read_lines(file), 1):
        if (photo := finder.find(line)) is None:
            raise wrong("no such photo", file, line, f"a path from {file.parent} or its parent", number)
        yield Path(os.path.normpath(photo))


def _label_files(photos: list[Path]) -> list[Path | None]:
    """Each photo's label file, or None; a label file without a photo is refused."""
    finder = PhotoFinder([])
    folder_of = {folder: _label_folder(folder) for folder in {photo.parent for photo in photos}}
    for folder, labels in folder_of.items():
        for place in [labels] if labels == folder else [labels, *labels.rglob("*/")]:
            home = folder / place.relative_to(labels)
            stems = {name.rpartition(".")[0] for name in finder.names_in(home) if not name.endswith(".txt")}
            for name in sorted(finder.names_in(place)):
                if name.endswith(".txt") and name[:-4] not in stems and not _NO_LABELS.match(name):
                    raise DataError("a label file without a photo", file=place / name, expected=f"a photo in {home}")
    files = [folder_of[photo.parent] / f"{photo.stem}.txt" for photo in photos]
    if len(set(files)) < len(files):
        raise DataError("two photos share one label file", file=next(f for f in files if files.count(f) > 1))
    found = [file if file.name in finder.names_in(file.parent) else None for file in files]
    if not any(found) and all(folder == labels for folder, labels in folder_of.items()):
        raise DataError("no label file for any photo", file=files[0].parent, expected="labels/ in place of images/")
    return found


def _label_folder(folder: Path) -> Path:
    """The folder with `labels` for the last `images` in its path where that is there, else the folder itself."""
    head, _, tail = f"{folder.as_posix()}/".rpartition("/images/")
    labels = Path(f"{head}/labels/{tail}")
    return labels if head and labels.is_dir() else folder


def _truth(photo: Path, file: Path | None, class_count: int, points: int, size: int) -> Detections:
    rows = []
    text = b"" if file is None else read_bytes(file, may_be_empty=True)
    for number, line in enumerate(text.splitlines(), 1):
        try:
            if cells := line.removeprefix(b"\xef\xbb\xbf").split():
                rows.append(_row(cells, class_count, points, size))
        except DataError as error:
            raise placed(error, error.message, file, number) from None
    height, width = read_size_hw(photo)
    table = np.array(rows, np.float64).reshape(len(rows), 5 + 3 * points)  # [N, 5 + 3P]
    table *= [1, width, height, width, height, *([width, height, 1] * points)]
    points_xyv = table[:, 5:].astype("f4").reshape(len(rows), points, 3) if points else None
    return Detections((height, width), table[:, 1:5].astype("f4"), table[:, 0].astype(int), points_xyv=points_xyv)


def _row(cells: list[bytes], class_count: int, points: int, size: int) -> list[float]:
    """Label, rel_xyxy and points (x, y, visibility) of one line; a polygon gives the box around it."""
    text = b" ".join(cells).decode(errors="replace")
    try:
        label, *values = [float(cell.replace(b"_", b"?")) for cell in cells]  # Python would take 1_0 for 10
    except ValueError:
        label, values = np.nan, []
    if not all(abs(value) < 1e6 for value in (label, *values)):
        raise wrong("not finite numbers", None, text, "class cx cy w h")
    if not (0 <= label < class_count and label % 1 == 0):
        hint = " (ids begin at 0)" if label == class_count else ""
        raise wrong(f"class id out of range, names has {class_count}", None, text, f"0 to {class_count - 1}{hint}")
    if points == 0 and len(values) >= 6 and len(values) % 2 == 0:
        rel_xyxy, fractions = [min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])], values
    elif len(values) == 4 + points * size:
        cx, cy, w, h = fractions = values[:4]
        rel_xyxy = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
    else:
        hint = "; the sixth, a confidence, belongs to predictions" if len(values) == 5 else ""
        expected = "class cx cy w h" + (f" and {points} points of {size}" if points else ", or class and a polygon")
        raise wrong(f"a line of {len(cells)} columns", None, text, expected + hint)
    if not all(-_SLACK <= value <= 1 + _SLACK for value in fractions):
        raise wrong("not fractions of the photo", None, text, f"0 to 1{' (are these pixels?)' * (max(fractions) > 2)}")
    if rel_xyxy[2] - rel_xyxy[0] < _TINY or rel_xyxy[3] - rel_xyxy[1] < _TINY:
        raise wrong("a box without area", None, text, "width and height above 0")
    own = [values[at : at + size] for at in range(4, 4 + points * size, size)]
    return [label, *rel_xyxy, *(v for x, y, *seen in own for v in (x, y, *(seen or [2.0 * (x != 0 or y != 0)])))]


def write(datasets: Dataset | Sequence[Dataset], root: Path) -> list[str]:
    """Write splits of the same classes as a YOLO data set into a new or empty folder; photos are hard-linked.

    Returns:
        One line for each thing YOLO cannot carry: crowd boxes, which are left out, and boxes beyond the photo.
    Raises:
        UsageError: the folder has content, or the data sets do not fit together.
    """
    named = by_split(datasets)
    crowd = clipped = points = 0
    with new_folder(root) as folder:
        for name, sample in ((Path(split, inner_name(s)), s) for split, dataset in named.items() for s in dataset):
            place_photo(sample, folder / "images" / name)
            file = (folder / "labels" / name).with_suffix(".txt")
            file.parent.mkdir(parents=True, exist_ok=True)
            if file.exists():
                raise DataError("two photos share one label file", file=sample.image_path, found=file.name)
            truth = sample.truth if sample.truth.crowd is None else sample.truth[~sample.truth.crowd]
            text, beyond = _lines(truth)
            file.write_text(text, encoding="ascii")
            crowd, clipped = crowd + len(sample.truth) - len(truth), clipped + beyond
            points = points if truth.points_xyv is None else truth.points_xyv.shape[1]
        config: dict[str, Any] = {split: f"images/{split}" for split in named}
        config |= {"kpt_shape": [points, 3]} if points else {}
        config["names"] = dict(enumerate(next(iter(named.values())).class_names))
        (folder / "data.yaml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    notes = [f"{crowd} crowd boxes are left out: YOLO has no flag for them"] if crowd else []
    return notes + ([f"{clipped} boxes are clipped: YOLO boxes end at the photo's edge"] if clipped else [])


def _lines(truth: Detections) -> tuple[str, int]:
    """The label file's text, and how many boxes had to be clipped to be fractions of the photo."""
    per_px = 1 / truth.size_hw[1], 1 / truth.size_hw[0]
    boxes_xyxy = truth.boxes_xyxy.astype(np.float64)
    rel_cxcywh = boxes.scale(boxes.xyxy_to_cxcywh(boxes_xyxy), per_px)
    beyond = np.any((rel_cxcywh < 0) | (rel_cxcywh > 1), axis=1)
    clipped = boxes.scale(boxes.xyxy_to_cxcywh(boxes.clip(boxes_xyxy, truth.size_hw)), per_px)
    columns = [np.where(beyond[:, None], clipped, rel_cxcywh)]
    if truth.points_xyv is not None:
        columns.append((truth.points_xyv * [*per_px, 1]).reshape(len(truth), 3 * truth.points_xyv.shape[1]))
    rows = zip(truth.labels.tolist(), np.hstack(columns).tolist(), strict=True)
    return "".join(f"{label} {' '.join(f'{value:.9f}' for value in row)}\n" for label, row in rows), int(beyond.sum())
