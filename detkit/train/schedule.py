"""How long a run is: a number of epochs, or what fits into a time budget, planned as the speed becomes known."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass, field

from detkit.errors import UsageError

_FIRST_PLAN = 10  # steps before the speed is known
_UNITS_S = {"s": 1, "m": 60, "h": 3600}


def parse_time(text: str) -> float:
    """Minutes in a text such as "90s", "30m", "2h" or "1h30m".

    Raises:
        UsageError: it is none of these, or no time at all.
    """
    parts = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text.strip())
    seconds = 0.0
    if parts is not None:
        seconds = sum(float(number or 0) * _UNITS_S[unit] for unit, number in zip("hms", parts.groups(), strict=True))
    if not seconds > 0:
        raise UsageError("--time", found=repr(text), expected="a time such as 30m, 90s or 1h30m")
    return seconds / 60


@dataclass(slots=True)
class Clock:
    """Plans the number of optimiser steps of a run.

    With a time budget the plan follows the clock: the steps done are to the whole as the time spent is to the budget,
    less what the last look at the val split will take. So the schedule moves on evenly in time, whatever a step costs
    (canvases may grow), and the run ends on time.

    Args:
        budget_s: seconds for the whole run, or None.
        epoch_steps: steps of an epoch.
        total_steps: the plan so far.
    """

    budget_s: float | None
    epoch_steps: int
    total_steps: int
    spent_s: float = 0.0
    _began: float = field(default_factory=time.monotonic)
    _last_look_s: float = 0.0

    def start(self, spent_s: float) -> None:
        """The run begins, or goes on after `spent_s`."""
        self._began = time.monotonic() - spent_s
        self.spent_s = spent_s

    def tick(self, step: int) -> None:
        """So many steps are done. Moves the plan where there is a budget."""
        self.spent_s = time.monotonic() - self._began
        if self.budget_s is not None and step >= _FIRST_PLAN:
            left_s = self.budget_s - self._last_look_s
            self.total_steps = max(step, math.ceil(step * left_s / self.spent_s))

    def look_took(self, seconds: float) -> None:
        """The last look at the val split, with all that goes with it, took so long."""
        self._last_look_s = seconds
        self.spent_s = time.monotonic() - self._began
