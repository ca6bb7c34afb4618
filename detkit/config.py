"""Settings: a frozen dataclass holds the defaults, a TOML file changes some, `--set key=value` changes the last few."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from detkit.errors import UsageError

Settings = TypeVar("Settings")

_NONE_WORD = "none"  # TOML has no null: an optional setting is switched off with this word
_SCALARS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
}


@dataclass(frozen=True, slots=True)
class _Given:
    """One value somebody set, and where."""

    value: Any
    file: Path | None = None
    line: int | None = None

    @property
    def is_text(self) -> bool:
        """From the command line: still a string, whatever its type will be."""
        return self.file is None


def load(cls: type[Settings], file: Path | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Build `cls` from its defaults, then a TOML file, then `key=value` overrides; the last one wins.

    Fields may be bool, int, float, str, Path, Literal, tuple, `X | None` (off is the word "none") and dataclasses.

    Args:
        cls: a dataclass; a nested dataclass is a TOML table, and `table.key` in an override.
        file: TOML file, or None.
        overrides: texts such as `optim.lr=0.01`.
    Returns:
        An instance of `cls`.
    Raises:
        UsageError: unreadable file, unknown key (names the nearest), wrong type, or `cls` refused the values.
    """
    leaves = leaf_types(cls)
    given = {} if file is None else _read_file(cls, file, leaves)
    for text in overrides:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals:
            raise UsageError(f"--set {text}: no '='", expected="key=value")
        if key not in leaves:
            raise UsageError(f"--set {text}: {_unknown(key, leaves)}")
        given[key] = _Given(value.strip())
    try:
        return cls(**_arguments(cls, None, "", given))
    except ValueError as error:
        raise UsageError(str(error), file=file) from error


def leaf_types(cls: type) -> dict[str, Any]:
    """Every setting of a dataclass as `table.key` -> its type."""
    found: dict[str, Any] = {}
    for field, kind in _typed_fields(cls):
        if is_dataclass(kind):
            inner = leaf_types(kind)  # type: ignore[arg-type]
            found.update({f"{field.name}.{key}": inner_kind for key, inner_kind in inner.items()})
        else:
            found[field.name] = kind
    return found


def dump_toml(settings: Any) -> str:
    """Write a settings dataclass as TOML text; `load` gives the same instance back."""
    return "\n".join(_dump_lines(settings, "")) + "\n"


def _typed_fields(cls: type) -> list[tuple[Field[Any], Any]]:
    hints = get_type_hints(cls)
    return [(field, hints[field.name]) for field in fields(cls) if field.init]


def _unknown(key: str, known: Mapping[str, Any]) -> str:
    """What to say of an unknown key: the nearest known one, by its whole name or its last part."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    last_parts = {name.rpartition(".")[2]: name for name in known}
    near = near or [last_parts[n] for n in difflib.get_close_matches(key.rpartition(".")[2], last_parts, 1, 0.6)]
    hint = f"did you mean '{near[0]}'?" if near else "known: " + ", ".join(known)
    return f"unknown setting '{key}'; {hint}"


def _read_file(cls: type, file: Path, leaves: Mapping[str, Any]) -> dict[str, _Given]:
    try:
        text = file.read_bytes().decode("utf-8")
        tree = tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"cannot read the settings: {error.strerror}", file=file) from error
    except UnicodeDecodeError as error:
        raise UsageError("is not UTF-8 text", file=file) from error
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"at line (\d+)", str(error))
        raise UsageError(f"is not TOML: {error}", file=file, line=int(at[1]) if at else None) from error
    lines = _key_lines(text)
    given: dict[str, _Given] = {}
    for key, value in _flatten(tree, {name.rpartition(".")[0] for name in leaves}):
        if key not in leaves:
            tables = [name for name in leaves if name.startswith(f"{key}.")]
            problem = f"'{key}' is a table" if tables else _unknown(key, leaves)
            raise UsageError(problem, file=file, line=lines.get(key))
        given[key] = _Given(value, file, lines.get(key))
    return given


def _flatten(tree: Mapping[str, Any], tables: set[str], prefix: str = "") -> list[tuple[str, Any]]:
    """TOML tables as dotted keys; a table nobody knows is left whole, to be complained about."""
    flat: list[tuple[str, Any]] = []
    for name, value in tree.items():
        key = prefix + name
        is_table = any(table == key or table.startswith(f"{key}.") for table in tables)
        flat += _flatten(value, tables, f"{key}.") if isinstance(value, dict) and is_table else [(key, value)]
    return flat


def _key_lines(text: str) -> dict[str, int]:
    """The line each dotted key stands on, as far as plain `key =` lines and `[table]` headers tell."""
    found: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[\s*([\w.-]+)\s*\]", line)
        pair = re.match(r"\s*([\w.-]+)\s*=", line)
        if header:
            table = f"{header[1]}."
            found.setdefault(header[1], number)
        elif pair:
            found.setdefault(table + pair[1], number)
    return found


def _arguments(cls: type, default: Any, prefix: str, given: Mapping[str, _Given]) -> dict[str, Any]:
    """Constructor arguments of `cls`: what was given, over the instance `default`, over the fields' defaults."""
    arguments: dict[str, Any] = {}
    for field, kind in _typed_fields(cls):
        key = prefix + field.name
        fallback = _default_of(field) if default is None else getattr(default, field.name)
        if is_dataclass(kind):
            inner = None if fallback is MISSING else fallback
            arguments[field.name] = kind(**_arguments(kind, inner, f"{key}.", given))  # type: ignore[arg-type,operator]
        elif key in given:
            arguments[field.name] = _convert_given(key, kind, given[key])
        elif fallback is MISSING:
            raise UsageError(f"setting '{key}' is missing", expected=_describe(kind))
        else:
            arguments[field.name] = fallback
    return arguments


def _default_of(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


def _convert_given(key: str, kind: Any, given: _Given) -> Any:
    try:
        return _from_text(kind, given.value) if given.is_text else _from_toml(kind, given.value)
    except (ValueError, OverflowError) as error:
        found = repr(given.value)
        where = f"--set {key}" if given.is_text else f"setting '{key}'"
        raise UsageError(where, file=given.file, line=given.line, found=found, expected=_describe(kind)) from error


def _from_text(kind: Any, text: str) -> Any:
    """A value typed on the command line; commas separate the items of a tuple, brackets are optional."""
    inner = _optional(kind)
    if inner is not None:
        return None if text.lower() == _NONE_WORD else _from_text(inner, text)
    if get_origin(kind) is Literal:
        named = {str(choice): choice for choice in get_args(kind)}
        if text not in named:
            raise ValueError(text)
        return named[text]
    if get_origin(kind) is tuple:
        try:
            listed = tomllib.loads(f"items = {text if text.startswith('[') else f'[{text}]'}")["items"]
            return _from_toml(kind, listed)
        except ValueError:  # bare words, such as cat,dog
            words = [word.strip() for word in text.removeprefix("[").removesuffix("]").split(",") if word.strip()]
            return tuple(_from_text(item, word) for item, word in zip(_items(kind, len(words)), words, strict=True))
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    return _scalar(kind)(text)


def _from_toml(kind: Any, value: Any) -> Any:
    """A value as TOML typed it; a whole number will do for a float, nothing else is bent."""
    inner = _optional(kind)
    if inner is not None:
        return None if value == _NONE_WORD else _from_toml(inner, value)
    if get_origin(kind) is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in get_args(kind)):
            raise ValueError(value)
        return value
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise ValueError(value)
        return tuple(_from_toml(item, v) for item, v in zip(_items(kind, len(value)), value, strict=True))
    accepted = {float: (float, int), Path: (str,)}.get(_scalar(kind), (kind,))
    if type(value) not in accepted:
        raise ValueError(value)
    return kind(value)


def _optional(kind: Any) -> Any:
    """X of `X | None`, else None."""
    if get_origin(kind) not in (Union, types.UnionType):
        return None
    inner = [arg for arg in get_args(kind) if arg is not type(None)]
    if len(inner) != 1:
        raise TypeError(f"settings cannot have the type {kind}")
    return inner[0]


def _items(kind: Any, count: int) -> tuple[Any, ...]:
    """The types of a tuple's `count` items."""
    args = get_args(kind)
    items = (args[0],) * count if args[-1] is Ellipsis else args
    if len(items) != count:
        raise ValueError(count)
    return items


def _scalar(kind: Any) -> Any:
    if kind not in _SCALARS:
        raise TypeError(f"settings cannot have the type {kind}")
    return kind


def _describe(kind: Any) -> str:
    """A type in the user's words."""
    inner = _optional(kind)
    if inner is not None:
        return f"{_describe(inner)}, or {_NONE_WORD}"
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(kind))
    if get_origin(kind) is tuple:
        args = get_args(kind)
        return ("a list" if args[-1] is Ellipsis else f"a list of {len(args)}") + f", each {_describe(args[0])}"
    return _SCALARS[_scalar(kind)]


def _dump_lines(settings: Any, prefix: str) -> list[str]:
    plain, tables = [], []
    for field, kind in _typed_fields(type(settings)):
        value = getattr(settings, field.name)
        if is_dataclass(kind):
            tables += ["", f"[{prefix}{field.name}]", *_dump_lines(value, f"{prefix}{field.name}.")]
        elif _optional(kind) is not None and value == _NONE_WORD:
            raise UsageError(f"setting '{prefix}{field.name}' cannot be the text '{_NONE_WORD}', which means off")
        else:
            plain.append(f"{field.name} = {_toml_value(value)}")
    return plain + tables


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    text = _NONE_WORD if value is None else str(value)
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
