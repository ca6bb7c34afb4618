"""An item that was named and cannot be read, known as such before anything is opened."""

from __future__ import annotations

from dataclasses import dataclass, field

from detkit.errors import DataError
from detkit.infer.frames import Item


@dataclass(frozen=True, slots=True)
class Refused(Item):
    """Takes the place of a missing file of a list or a hostile member of an archive; reading it raises `error`.

    Its kind is "photo", so that whoever reads photos meets the error where the item stands, and the rest goes on.
    """

    error: DataError = field(default_factory=lambda: DataError("cannot be read"))
