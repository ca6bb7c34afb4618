"""The options of `detkit detect` and `detkit eval` that say how a window model slides over a photo."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from detkit.errors import UsageError

_WINDOWS = "Window models"

Mode = Annotated[
    Literal["window", "conv"] | None,
    typer.Option(
        "--mode",
        help="Run the network on each window, or as a convolution once for each scale: the same boxes sooner "
        "(default: conv).",
        rich_help_panel=_WINDOWS,
    ),
]
Stride = Annotated[
    int | None,
    typer.Option(
        "--stride", metavar="PX", help="From one window to the next (default: the model's).", rich_help_panel=_WINDOWS
    ),
]
ScaleStep = Annotated[
    float | None,
    typer.Option(
        "--scale-step",
        metavar="FACTOR",
        help="From one scale of the photo to the next (default: 1.2).",
        rich_help_panel=_WINDOWS,
    ),
]
Smallest = Annotated[
    float | None,
    typer.Option(
        "--smallest",
        metavar="PX",
        help="Longer side of the smallest objects to look for, in the photo (default: the model's).",
        rich_help_panel=_WINDOWS,
    ),
]


def asked(mode: str | None, stride: int | None, scale_step: float | None, smallest: float | None) -> dict[str, Any]:
    """The arguments of `infer.pyramid.Sliding` that are given; empty where none is."""
    given = {"mode": mode, "stride_px": stride, "scale_step": scale_step, "smallest_px": smallest}
    return {name: value for name, value in given.items() if value is not None}


def sliding_of(given: dict[str, Any]) -> Any:
    """The `Sliding` that is asked for, or None."""
    from detkit.infer.pyramid import Sliding

    return Sliding(**given) if given else None


def check(given: dict[str, Any], task: str, batch: int = 1) -> None:
    """Refuse the options for a model of another task, and a batch of photos for a window model (UsageError)."""
    if task == "window" and batch != 1:
        raise UsageError("--batch: a window model looks at photos one by one", found=batch, expected="no --batch")
    if given and task != "window":
        from detkit.infer.sliding import refuse_sliding

        refuse_sliding(task)
