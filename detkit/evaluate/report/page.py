"""A page from a template: one file with its style, its script and its pictures within, and nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from detkit.errors import MissingExtraError
from detkit.evaluate.report.svg import Markup
from detkit.evaluate.report.thumbnails import Picture, thumbnails
from detkit.files import replacing

MAX_BYTES = 5_000_000  # of a page
MAX_PHOTOS = 500  # in its gallery
TEXT_BYTES = 2_400_000  # of the gallery's boxes and captions; where they need more, fewer photos are shown

_FULL = 0.98  # share of the room that is given to pictures


def write_page(
    target: Path, template: str, content: Mapping[str, Any], paths: Mapping[int, Path], copies: Callable[[int], int]
) -> None:
    """Fill a template twice: once to see what room is left for the photos, then with them.

    Args:
        target: the file.
        template: its name; it is given `content`, `style`, `script`, `policy` and `pictures`.
        content: what it is to say.
        paths: the photos to show, by position.
        copies: how often a photo is in the page.
    Raises:
        MissingExtraError: Jinja2 is not installed.
        RunError: the file cannot be written.
    """
    fill = _template(template)
    room = (MAX_BYTES - len(fill({**content, "pictures": {}}))) * _FULL
    weight = sum(copies(position) for position in paths) / max(len(paths), 1)
    for _ in range(4):
        pictures: dict[int, Picture] = thumbnails(paths, int(room / weight)) if paths else {}
        page = fill({**content, "pictures": pictures})
        if len(page) <= MAX_BYTES:
            break
        room *= 0.85
    with replacing(target) as partial:
        partial.write_bytes(page)


def check_jinja2() -> None:
    """Say in one line that an extra is missing, before any long work.

    Raises:
        MissingExtraError: Jinja2 is not installed.
    """
    try:
        import jinja2  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError('a report needs Jinja2: pip install "detkit-cv[report]"') from error


def _template(name: str) -> Callable[[Mapping[str, Any]], bytes]:
    check_jinja2()
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("detkit.evaluate.report", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style, script = _own_file("report.css"), _own_file("gallery.js")
    policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}"
    fixed = {"style": Markup(style), "script": Markup(script), "policy": policy}
    template = environment.get_template(name)

    def fill(content: Mapping[str, Any]) -> bytes:
        return template.render({**content, **fixed}).encode("utf-8", "replace")

    return fill


def _own_file(name: str) -> str:
    folder = resources.files("detkit.evaluate.report") / "templates"
    return (folder / name).read_text("utf-8")


def _hash(text: str) -> str:
    """By which a browser knows that style and script are ours: whatever else a name might smuggle in does not run."""
    digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"
