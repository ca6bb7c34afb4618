"""What the `detkit explain` commands share: their photo and their picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detkit.errors import UsageError

DEFAULT_OUT = Path("runs/explain")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

Photo = Annotated[Path, typer.Argument(metavar="PHOTO", help="An image file.", show_default=False)]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="FILE", help=f"The picture (default: in {DEFAULT_OUT})."),
]


def picture_file(out: Path | None, photo: Path, command: str) -> Path:
    """Where the picture goes, in a folder that is there.

    Raises:
        UsageError: no name of a picture, no such folder, or the photo itself.
    """
    file = DEFAULT_OUT / f"{photo.stem}-{command}.png" if out is None else out
    if file.suffix.lower() not in _SUFFIXES:
        raise UsageError("--out", found=str(file), expected=f"a file in {' or '.join(_SUFFIXES)}")
    if out is None:
        file.parent.mkdir(parents=True, exist_ok=True)
    if not file.absolute().parent.is_dir():
        raise UsageError("--out: no such folder", file=file.parent)
    if file.is_dir() or (file.exists() and photo.exists() and file.samefile(photo)):
        raise UsageError("--out would overwrite the photo, or is a folder", file=file, expected="another file")
    return file
