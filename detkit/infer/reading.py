"""How sources are read: which part of a video, and how much of a photo."""

from __future__ import annotations

import math
from dataclasses import dataclass

from detkit.errors import UsageError


@dataclass(frozen=True, slots=True)
class Reading:
    """How sources are read.

    Args:
        batch: pictures that go through the network together.
        every: each how many-th frame of a video is looked at.
        start_s, end_s: the part of each video to look at, in seconds; None is its start and its end.
        whole_pictures: hand photos on at their full size. Without, a JPEG far larger than the network's canvas comes
            at 1/2, 1/4 or 1/8 of it, as the network sees it: quicker where only boxes are wanted.
    Raises:
        UsageError: a value out of its range.
    """

    batch: int = 1
    every: int = 1
    start_s: float | None = None
    end_s: float | None = None
    whole_pictures: bool = True

    def __post_init__(self) -> None:
        for name in ("batch", "every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} of a run", found=getattr(self, name), expected="1 or more")
        for name in ("start_s", "end_s"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise UsageError(f"{name} of a run", found=value, expected="0 or more seconds")
        if self.end_s is not None and self.end_s <= (self.start_s or 0):
            found = f"{self.start_s or 0:g} to {self.end_s:g} s"
            raise UsageError("a part of a video ends after its start", found=found)
