"""`detkit explain grid`: which cell and which anchor answered for each object, and which boxes had to go for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from detkit.cli import options, terminal
from detkit.cli.explain_options import Out, Photo, picture_file

if TYPE_CHECKING:
    from detkit.infer.explain_grid import GridExplanation

_LISTED = 20  # suppressed boxes in the table
_SLOT = ("stride", "row", "column", "anchor", "anchor px")

Nms = Annotated[
    Literal["class", "agnostic"],
    typer.Option("--nms", help="Which boxes suppress each other: those of a class, or any (agnostic)."),
]
Size = Annotated[
    int | None,
    typer.Option(
        "--size", metavar="PX", help="Side of the network's canvas (default: the model's).", show_default=False
    ),
]


def grid(
    photo: Photo,
    weights: options.Weights = None,
    conf: options.Conf = None,
    iou: options.Iou = None,
    nms: Nms = "class",
    size: Size = None,
    backend: options.Backend = "auto",
    out: Out = None,
    as_json: options.Json = False,
) -> None:
    """Show which cell and which anchor of a YOLO model answered for each object of a photo.

    Prints a line for each object: the stride of its grid, the row and column of the cell and the anchor, all counted
    from 0, and how many boxes had to go for it in non-max suppression; then these boxes with their overlap (IoU).
    Writes a picture of both.

    Try it:  detkit explain grid photo.jpg --weights street
    """
    from detkit.engines import weights_suffix
    from detkit.images import decode_image, decode_reduced, read_image_bytes, write_image
    from detkit.infer.explain_grid import check_explainable, explain_grid
    from detkit.infer.explain_grid_picture import draw_grid
    from detkit.infer.predictor import Predictor
    from detkit.weights import find_weights, read_card

    file = find_weights(weights, weights_suffix(backend))
    card = read_card(file)
    check_explainable(card, file)
    data = read_image_bytes(photo)
    image_rgb = decode_image(data, str(photo))
    target = picture_file(out, photo, "grid")
    predictor = Predictor(file, conf=conf, iou=iou, nms=nms, size_px=size, engine=backend)
    explained = explain_grid(predictor, *decode_reduced(data, str(photo), predictor.canvas_hw, card.fit))
    write_image(target, draw_grid(explained, image_rgb, card.fit, card.pad_value))
    if as_json:
        head = {"source": str(photo), "weights": str(file), "backend": predictor.engine.name, "picture": str(target)}
        terminal.print_json(head | explained.to_dict())
    else:
        _print_tables(explained)
    before, objects = (terminal.count(len(explained.before), "box", "boxes"), len(explained.objects))
    talk = f"{before} before suppression, {len(explained.suppressed)} suppressed, {terminal.count(objects, 'object')}"
    terminal.say(f"{talk}, by {file.name} on {predictor.engine.name}")
    terminal.say(f"picture: {target}")


def _print_tables(explained: GridExplanation) -> None:
    """The objects with their cells and anchors, then the boxes that went for each, best first."""
    boxes = explained.to_dict()["objects"]
    rows = [
        [str(number), *_found(box), *_whole(box["box"]), *_slot(box), str(len(box["suppressed"]))]
        for number, box in enumerate(boxes, start=1)
    ]
    _table(("#", "class", "score", "x1", "y1", "x2", "y2", *_SLOT, "suppressed"), rows)
    gone = [(number, box) for number, own in enumerate(boxes, start=1) for box in own["suppressed"]]
    if not boxes:
        score, name = explained.highest
        terminal.say(f"no slot scores enough to count; the highest score is {score:.2f}, of a {name}: see --conf")
    if not gone:
        return
    print()
    rows = [[str(number), *_found(box), f"{box['iou']:.3f}", *_slot(box)] for number, box in gone[:_LISTED]]
    _table(("suppressed by", "class", "score", "IoU", *_SLOT), rows)
    kind = "of its class" if explained.selection.nms == "class" else "of any class"
    terminal.say(f"a box goes when its IoU with a better one {kind} that stays is above {explained.selection.iou:g}")
    if len(gone) > _LISTED:
        terminal.say(f"{len(gone) - _LISTED} more suppressed boxes: see --json")


def _table(heads: tuple[str, ...], rows: list[list[str]]) -> None:
    terminal.print_table(heads, rows, right=tuple(name for name in heads if name not in ("class", "anchor px")))


def _found(box: dict[str, Any]) -> list[str]:
    return [box["class"], f"{box['score']:.2f}"]


def _slot(box: dict[str, Any]) -> list[str]:
    """Stride, row, column, number and size of the anchor, as cells of a table; see `_SLOT`."""
    width, height = box["anchor_wh_px"]
    return [*(str(box[name]) for name in ("stride", "row", "column", "anchor")), f"{width:g}x{height:g}"]


def _whole(numbers: Sequence[float]) -> list[str]:
    return [f"{number:.0f}" for number in numbers]
