"""`data.yaml`, the list of folders and class names of a YOLO data set, or `classes.txt` in its place."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from detkit.data.findings import Report
from detkit.data.keypoints import numbered_names
from detkit.data.label_files import checked_class_names, read_bytes, read_lines, wrong
from detkit.errors import DataError

CLASS_FILES = ("classes.txt", "obj.names", "classes.names", "labels/classes.txt")
_YAML = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # plain texts only: a class called "no" stays "no"
_MAX_YAML_BYTES, _MAX_YAML_DEPTH = 1 << 20, 10


def yaml_file(path: Path) -> Path | None:
    """The path itself, data.yaml or dataset.yaml in it, or its only YAML file with class names."""
    if path.is_file():
        return path if path.suffix.lower() in (".yaml", ".yml") else None
    files = [file for file in sorted(path.glob("*.y*ml")) if file.is_file()]
    named = [file for file in files if file.stem in ("data", "dataset")]
    named = named or [f for f in files if re.search(rb"(?m)^names\s*:", read_bytes(f, may_be_empty=True))]
    if len(named) > 1:
        raise DataError("several data files", file=path, found=", ".join(f.name for f in named), expected="one")
    return named[0] if named else None


def load_yaml(file: Path) -> dict[str, Any]:
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


def entries(config: dict[str, Any], split: str, file: Path) -> list[str]:
    """What data.yaml says about one split: folders or list files; none where it is absent or null."""
    entries = config.get(split, config.get("valid", "") if split == "val" else "")
    entries = entries if isinstance(entries, list) else [entries]
    if not all(isinstance(entry, str) for entry in entries):
        raise wrong(f"{split} is wrong", file, entries, "a folder, a list file, or a list of them")
    return [entry for entry in entries if entry not in ("", "~", "null")]


def found_place(entry: str, config: dict[str, Any], file: Path) -> Path:
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


def class_names(home: Path, config: dict[str, Any], file: Path | None, report: Report) -> tuple[str, ...]:
    """The names in data.yaml, a list or numbered from 0; without a yaml those in classes.txt."""
    if file is None:
        for place in (home / name for name in CLASS_FILES):
            if place.is_file():
                return checked_class_names(read_lines(place), place, report)
        raise DataError("no class names", file=home, expected=f"data.yaml or {' or '.join(CLASS_FILES)}")
    names = config.get("names")
    if isinstance(names, dict):
        if set(names) != {str(number) for number in range(len(names))}:
            raise wrong("names are not numbered from 0 without gaps", file, list(names), f"0 to {len(names) - 1}")
        names = [names[str(number)] for number in range(len(names))]
    if not isinstance(names, list):
        raise wrong("names is wrong", file, names, "a list of class names")
    checked = checked_class_names(names, file, report)
    if config.get("nc", str(len(checked))) != str(len(checked)):
        report(wrong("nc does not fit the names", file, config["nc"], str(len(checked))))
    return checked


def point_shape(config: dict[str, Any], file: Path | None) -> tuple[int, int]:
    """`kpt_shape`: how many points each object has, and with how many numbers; (0, 3) without points."""
    shape = config.get("kpt_shape", ["0", "3"])
    if not isinstance(shape, list) or not re.fullmatch("[0-9]{1,3} [23]", " ".join(map(str, shape))):
        raise wrong("kpt_shape is wrong", file, shape, "[points, 2 or 3]")
    return int(shape[0]), int(shape[1])


def mirrored_points(config: dict[str, Any], file: Path | None, count: int) -> tuple[tuple[int, int], ...] | None:
    """The pairs of points that change places in a mirror, by `flip_idx`: where each point goes; None without it."""
    listed = config.get("flip_idx")
    if not count or listed is None:
        return None
    texts = [str(index) for index in listed] if isinstance(listed, list) else []
    moved = [int(text) for text in texts if text.isdecimal()]
    swaps = len(moved) == len(texts) == count and all(to < count and moved[to] == k for k, to in enumerate(moved))
    if not swaps:
        raise wrong("flip_idx is wrong", file, listed, f"for each of the {count} points the one it becomes, and back")
    return tuple((k, to) for k, to in enumerate(moved) if k < to)


def point_names(config: dict[str, Any], file: Path | None, count: int) -> tuple[str, ...]:
    """The names of the points: `kpt_names`, which lists them for each class, else numbers; () without points."""
    listed = config.get("kpt_names")
    if not count or listed is None:
        return numbered_names(count)
    every = list(listed.values()) if isinstance(listed, dict) else [listed]
    if not every or any(names != every[0] for names in every):
        return numbered_names(count)  # each class has points of its own
    names = every[0]
    fits = isinstance(names, list) and len(names) == count == len(set(map(str, names)))
    if not fits or not all(isinstance(name, str) and name.strip() for name in names):
        raise wrong("kpt_names is wrong", file, names, f"{count} distinct names, as in kpt_shape")
    return tuple(names)
