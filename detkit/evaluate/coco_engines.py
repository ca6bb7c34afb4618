"""The two programs that compute COCO's curves, hotcoco and pycocotools: the same input to both, one output."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detkit.evaluate.columns import Columns

Engine = Literal["hotcoco", "pycocotools"]


class Grid(NamedTuple):
    """For which T IoU thresholds, A ranges of area (low and high end, both included) and M limits per image."""

    ious: list[float]
    areas_px: list[list[float]]
    limits: list[int]


class Curves(NamedTuple):
    """Accumulated results in COCO's layout; T thresholds, R recalls, K classes, A ranges of area, M limits."""

    precision: NDArray[np.float64]  # [T, R, K, A, M]
    recall: NDArray[np.float64]  # [T, K, A, M]


def _with_hotcoco(truths: Columns, found: Columns, images: int, classes: int, grid: Grid) -> Curves:
    import hotcoco

    truth = hotcoco.COCO.from_arrays(
        id_rows(images),
        id_rows(classes),
        truths.images,
        truths.categories,
        truths.boxes_xywh,
        area=truths.areas_px,
        iscrowd=truths.crowd,
    )
    rows = np.column_stack([found.images, found.boxes_xywh, found.scores, found.categories])  # [N, 7]
    return run_hotcoco(hotcoco.COCOeval(truth, truth.load_res(rows), "bbox"), grid)


def run_hotcoco(run: Any, grid: Grid) -> Curves:
    """The curves of a prepared `hotcoco.COCOeval`."""
    run.params.iou_thrs = grid.ious
    run.params.area_rng, run.params.area_rng_lbl = grid.areas_px, [str(a) for a in range(len(grid.areas_px))]
    run.params.max_dets = grid.limits
    run.evaluate()
    run.accumulate()
    assert run.eval is not None  # accumulate() has run
    return Curves(np.asarray(run.eval["precision"]), np.asarray(run.eval["recall"]))


def _with_pycocotools(truths: Columns, found: Columns, images: int, classes: int, grid: Grid) -> Curves:
    return run_pycocotools(annotation_rows(truths), annotation_rows(found), images, classes, grid)


def run_pycocotools(
    truths: list[dict[str, Any]],
    found: list[dict[str, Any]],
    images: int,
    classes: int,
    grid: Grid,
    sigmas: NDArray[np.float64] | None = None,
) -> Curves:
    """The curves of annotations by pycocotools: of boxes or, where `sigmas` [P] are given, of points."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def build(rows: list[dict[str, Any]]) -> COCO:
        coco = COCO()
        coco.dataset = {"images": id_rows(images), "categories": id_rows(classes), "annotations": rows}
        coco.createIndex()
        return coco

    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        run = COCOeval(build(truths), build(found), "bbox" if sigmas is None else "keypoints")
        run.params.iouThrs, run.params.maxDets = np.array(grid.ious), grid.limits
        run.params.areaRng, run.params.areaRngLbl = grid.areas_px, [str(a) for a in range(len(grid.areas_px))]
        if sigmas is not None:
            run.params.kpt_oks_sigmas = sigmas
        run.evaluate()
        run.accumulate()
    return Curves(run.eval["precision"], run.eval["recall"])


ENGINES: Mapping[str, Callable[[Columns, Columns, int, int, Grid], Curves]] = {
    "hotcoco": _with_hotcoco,
    "pycocotools": _with_pycocotools,
}


def id_rows(count: int) -> list[dict[str, Any]]:
    """Images or categories numbered from 1; neither engine looks at anything but the id."""
    return [{"id": i, "name": str(i), "file_name": str(i), "width": 1, "height": 1} for i in range(1, count + 1)]


def annotation_rows(columns: Columns) -> list[dict[str, Any]]:
    """Annotations as pycocotools wants them; ids from 1, because it takes a match with id 0 for no match."""
    keys = ("image_id", "category_id", "bbox", "area", "score", "iscrowd")
    listed = zip(*(column.tolist() for column in columns), strict=True)
    return [{"id": i, **dict(zip(keys, values, strict=True))} for i, values in enumerate(listed, start=1)]
