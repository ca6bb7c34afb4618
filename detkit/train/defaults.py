"""The default of every setting, read off the source of the settings classes: importing those would bring PyTorch."""

from __future__ import annotations

import ast
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).parent.parent


@functools.cache
def default_settings() -> dict[str, Any]:
    """The defaults of `TrainSettings` as config.toml would hold them: a tree of tables, None being "none"."""
    return _class_defaults(_PACKAGE / "train" / "settings.py", "TrainSettings")


def changed_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a run's settings (`table.key` -> value) that are not as today's defaults have them."""
    defaults = flat_settings(default_settings())
    return {key: value for key, value in settings.items() if key not in defaults or value != defaults[key]}


def flat_settings(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """TOML tables as `table.key`; what JSON cannot hold (dates, infinities) becomes text."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flat_settings(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if _is_json(value) else str(value)
    return flat


def _is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _class_defaults(file: Path, name: str) -> dict[str, Any]:
    """Field -> default of a dataclass in a source file; a field made by another dataclass is a table."""
    tree = ast.parse(file.read_text("utf-8"))
    cls = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    defaults: dict[str, Any] = {}
    for statement in cls.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
            factory = _factory(statement.value)
            if factory is not None:
                defaults[statement.target.id] = _class_defaults(_home(tree, factory) or file, factory)
            elif not isinstance(statement.value, ast.Call):
                defaults[statement.target.id] = _toml(ast.literal_eval(statement.value))
    return defaults


def _factory(value: ast.expr) -> str | None:
    """The class named in `field(default_factory=Class)`."""
    for keyword in value.keywords if isinstance(value, ast.Call) else ():
        if keyword.arg == "default_factory" and isinstance(keyword.value, ast.Name):
            return keyword.value.id
    return None


def _home(tree: ast.Module, name: str) -> Path | None:
    """The file that `from detkit.x.y import name` takes it from, or None where it is not imported."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and any(alias.name == name for alias in node.names):
            return _PACKAGE.joinpath(*node.module.split(".")[1:]).with_suffix(".py")
    return None


def _toml(value: Any) -> Any:
    """A default as tomllib would read it back."""
    if isinstance(value, tuple):
        return [_toml(item) for item in value]
    return "none" if value is None else value
