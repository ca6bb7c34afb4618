"""Inline SVG by small functions: elements that escape what they are given, and axes to draw on.

Colours are CSS classes, never values, so that one picture follows a light and a dark page.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike


class Markup(str):
    """Text that is markup already: templates and `tag` take it as it is."""

    __slots__ = ()

    def __html__(self) -> str:
        """What Jinja2 asks for."""
        return str(self)


def escaped(value: object) -> Markup:
    """A value as markup: numbers short, text escaped."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, float):
        return Markup(number(value))
    return Markup(html.escape(str(value)))


def number(value: float) -> str:
    """A coordinate with at most two decimals."""
    short = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if short == "-0" else short


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """An element.

    Args:
        name: of the element.
        children: text is escaped, markup is not; None is left out.
        attributes: `class_` is class, `stroke_width` is stroke-width, `viewBox` stays; None is left out.
    """
    pairs = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    head = "".join(f' {key}="{escaped(value)}"' for key, value in pairs)
    inside = "".join(escaped(child) for child in children if child is not None)
    return Markup(f"<{name}{head}>{inside}</{name}>" if inside else f"<{name}{head}/>")


def joined(parts: Iterable[object]) -> Markup:
    """Elements one after the other."""
    return Markup("".join(escaped(part) for part in parts))


def picture(size_wh: tuple[float, float], *children: object, label: str, class_: str = "chart") -> Markup:
    """A picture that scales with the page; `label` is what a screen reader says."""
    width, height = size_wh
    box = f"0 0 {number(width)} {number(height)}"
    return tag("svg", *children, viewBox=box, class_=class_, role="img", aria_label=label)


def polyline(points_xy: ArrayLike) -> str:
    """Points [n, 2] as the `d` of a path; a gap where a coordinate is not finite."""
    steps, pen = [], "M"
    for x, y in np.asarray(points_xy, np.float64).reshape(-1, 2).tolist():
        if np.isfinite(x) and np.isfinite(y):
            steps.append(f"{pen}{number(x)} {number(y)}")
            pen = "L"
        else:
            pen = "M"
    return "".join(steps)


def corners(values: Sequence[float], at: Sequence[float]) -> tuple[list[float], list[float]]:
    """A curve without the points that lie on the straight line between their neighbours."""
    kept = [
        k
        for k in range(len(values))
        if k in (0, len(values) - 1) or not _between(at[k - 1 : k + 2], values[k - 1 : k + 2])
    ]
    return [at[k] for k in kept], [values[k] for k in kept]


def _between(xs: Sequence[float], ys: Sequence[float]) -> bool:
    return abs((xs[1] - xs[0]) * (ys[2] - ys[0]) - (xs[2] - xs[0]) * (ys[1] - ys[0])) < 1e-9


@dataclass
class Axes:
    """A panel from 0 to 1 (or other ranges) on which marks are put; `drawn` gives the picture.

    Args:
        size_wh: of the whole picture, in its own units: 12 of them are a line of text.
        x_range, y_range: the values at the ends.
        x_label, y_label: what they are.
        left, right, top, bottom: margins.
    """

    size_wh: tuple[float, float] = (420.0, 300.0)
    x_range: tuple[float, float] = (0.0, 1.0)
    y_range: tuple[float, float] = (0.0, 1.0)
    x_label: str = ""
    y_label: str = ""
    left: float = 44.0
    right: float = 12.0
    top: float = 12.0
    bottom: float = 42.0
    marks: list[Markup] = field(default_factory=list)

    def x(self, value: float) -> float:
        """Where a value lies across."""
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.size_wh[0] - self.left - self.right)

    def y(self, value: float) -> float:
        """Where a value lies down."""
        low, high = self.y_range
        return self.size_wh[1] - self.bottom - (value - low) / (high - low) * (self.size_wh[1] - self.top - self.bottom)

    def line(self, xs: Sequence[float], ys: Sequence[float], class_: str, title: str | None = None) -> None:
        """A line through points, broken where one is not finite."""
        path = polyline([(self.x(x), self.y(y)) for x, y in zip(xs, ys, strict=True)])
        self.marks.append(tag("path", title and tag("title", title), d=path, class_=f"line {class_}"))

    def bar(self, x1: float, x2: float, height: float, class_: str, title: str | None = None) -> None:
        """An upright bar between two values across, from the bottom."""
        left, top = self.x(x1), self.y(height)
        deep = max(0.0, self.y(self.y_range[0]) - top)
        wide = self.x(x2) - left
        named = title and tag("title", title)
        self.marks.append(tag("rect", named, x=left, y=top, width=wide, height=deep, class_=class_))

    def dot(self, x: float, y: float, class_: str, radius: float = 4.0, title: str | None = None) -> None:
        """A round mark."""
        named = title and tag("title", title)
        self.marks.append(tag("circle", named, cx=self.x(x), cy=self.y(y), r=radius, class_=class_))

    def text(self, x: float, y: float, words: object, *, anchor: str = "middle", up: float = 0.0) -> None:
        """Words at a place, moved up by some units."""
        place = {"x": self.x(x), "y": self.y(y) - up}
        self.marks.append(tag("text", words, **place, text_anchor=anchor, class_="small"))

    def grid(self, x_ticks: Sequence[float], y_ticks: Sequence[float], x_names: Sequence[str] | None = None) -> None:
        """Ticks with their numbers, and thin lines across; `x_names` stand for the numbers."""
        width, height = self.size_wh
        low = height - self.bottom
        for value in y_ticks:
            at = self.y(value)
            self.marks.append(tag("path", d=f"M{number(self.left)} {number(at)}H{number(width - self.right)}"))
            words = tag("text", f"{value:g}", x=self.left - 6, y=at + 4, text_anchor="end")
            self.marks.append(words)
        for value, name in zip(x_ticks, x_names or [f"{tick:g}" for tick in x_ticks], strict=True):
            lines = [
                tag("tspan", word, x=self.x(value), y=low + 15 + 12 * row) for row, word in enumerate(name.split())
            ]
            self.marks.append(tag("text", *lines, text_anchor="middle"))
            if x_names is None:
                self.marks.append(tag("path", d=f"M{number(self.x(value))} {number(low)}v4"))
        self.marks[:] = [tag("g", *self.marks, class_="grid")]

    def drawn(self, label: str) -> Markup:
        """The whole picture."""
        width, height = self.size_wh
        middle = (self.left + width - self.right) / 2
        names = [tag("text", self.x_label, x=middle, y=height - 5, text_anchor="middle", class_="axis")]
        if self.y_label:
            down = (self.top + height - self.bottom) / 2
            turned = f"rotate(-90 11 {number(down)})"
            place = {"x": 11.0, "y": down + 4, "transform": turned}
            names.append(tag("text", self.y_label, **place, text_anchor="middle", class_="axis"))
        return picture(self.size_wh, *self.marks, *names, label=label)
