"""Every task by its name."""

from __future__ import annotations

from collections.abc import Callable

from detkit.train.boxes_task import Detection, ExternalDetection
from detkit.train.localize_task import Localization
from detkit.train.points_task import Landmarking
from detkit.train.reports import Figures
from detkit.train.task import Task
from detkit.train.window_task import Windowing


def better(task: Task, figures: Figures, best: float | None) -> bool:
    """Whether figures beat the best so far (None: there is none)."""
    value = figures[task.figure]
    return best is None or (value > best if task.higher_is_better else value < best)


def task_of(name: str) -> Task:
    """The task a run's settings name."""
    return TASKS[name]()


TASKS: dict[str, Callable[[], Task]] = {
    "yolo": Detection,
    "darknet": Detection,
    "landmarks": Landmarking,
    "localize": Localization,
    "window": Windowing,
    "torchvision": ExternalDetection,
}
