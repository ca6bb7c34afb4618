"""`detkit data split`: divide labelled photos into train, val and test."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detkit.cli import options, terminal
from detkit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from detkit.data.dataset import Dataset

_NAMES = ("train", "val", "test")
_MISSED = 0.02  # a share that differs by more is said


def split(
    source: options.Data,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="A new folder.", show_default=False)],
    ratios: Annotated[
        str, typer.Option("--ratios", metavar="A,B,...", help="Share of photos of each split; the sum is 1.")
    ] = "0.8,0.1,0.1",
    names: Annotated[
        str | None,
        typer.Option("--names", metavar="A,B,...", help="The splits: of train, val, test (default: in that order)."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed gives another division.")] = 0,
    frame_gap: Annotated[
        int,
        typer.Option("--frame-gap", min=0, metavar="N", help="Video frames up to N numbers apart are neighbours."),
    ] = 30,  # one frame a second of a usual video
    format_: options.SourceFormat = None,
    as_json: options.Json = False,
) -> None:
    """Divide labelled photos into splits that can be trusted.

    All splits of DATA are pooled and divided anew, every class in the same shares. Photos that show the same stay in
    one split: near-duplicates, exported copies of one photo, and neighbours in a video, known by names that differ
    in a number at the end and by their looks. The same seed gives the same splits; DATA is never changed.

    Example:  detkit data split street --ratios 0.8,0.2 --out street-split
    """
    from detkit.data import formats
    from detkit.data.convert import refuse_target
    from detkit.data.split import divide, group_photos, hash_photos, pool, stratify

    shares, titles = _shares(ratios), _titles(names, ratios.count(",") + 1)
    refuse_target(source, out)
    read = list(formats.read_all(source, format=format_))
    for one in read:
        terminal.say(terminal.describe_dataset(one))
    dataset = pool(read)
    hashes = list(terminal.progress(hash_photos(dataset), total=len(dataset), title="comparing photos"))
    groups = group_photos(dataset, hashes, frame_gap)
    parts = divide(dataset, stratify(dataset, groups, shares, seed), titles)
    for line in [*formats.write(parts, out, dataset.format), *_remarks(parts, shares, groups)]:  # type: ignore[arg-type]
        terminal.warn(line)
    _say_groups(groups)
    terminal.say(f"{out}: written as {dataset.format.upper()}")
    if as_json:
        terminal.print_json({"source": str(source), "target": str(out), "seed": seed} | _document(parts, groups))
    else:
        _print_table(parts)


def _shares(ratios: str) -> list[float]:
    try:
        shares = [float(part) for part in ratios.split(",")]
    except ValueError:
        shares = []
    if not 2 <= len(shares) <= len(_NAMES) or not all(share > 0 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        expected = "two or three numbers above 0 whose sum is 1, such as 0.8,0.1,0.1"
        raise UsageError("--ratios is wrong", found=ratios, expected=expected)
    return shares


def _titles(names: str | None, count: int) -> list[str]:
    titles = [*_NAMES[:count]] if names is None else [name.strip() for name in names.split(",")]
    if len(titles) != count or len(set(titles)) != count or not set(titles) <= set(_NAMES):
        raise UsageError("--names is wrong", found=names, expected=f"{count} of {', '.join(_NAMES)}, as many as ratios")
    return titles


def _images_with(part: Dataset, label: int) -> int:
    return sum(bool((sample.truth.labels == label).any()) for sample in part)


def _boxes_of(part: Dataset, label: int) -> int:
    return sum(int((sample.truth.labels == label).sum()) for sample in part)


def _remarks(parts: Sequence[Dataset], shares: Sequence[float], groups: NDArray[np.int64]) -> list[str]:
    """What did not come out as asked: shares that groups made impossible, and classes some split lacks."""
    remarks = []
    total = sum(map(len, parts))
    if any(abs(len(part) / total - share) > _MISSED for part, share in zip(parts, shares, strict=True)):
        got = ", ".join(f"{len(part) / total:.2f}" for part in parts)
        largest = max(_counts(groups))
        why = f"the largest group, which stays together, has {largest:,}" if largest > 1 else "classes come first"
        remarks.append(f"the shares of the {total:,} photos came out as {got}: {why}")
    for label, name in enumerate(parts[0].class_names):
        images = [_images_with(part, label) for part in parts]
        if 0 in images and any(images):
            lacking = " and ".join(part.split for part, count in zip(parts, images, strict=True) if not count)
            remarks.append(f"no photo with {name!r} in {lacking}: there are {sum(images)} in all")
    return remarks


def _counts(groups: NDArray[np.int64]) -> list[int]:
    """How many photos each group has."""
    import numpy as np

    return [int(count) for count in np.bincount(groups)]


def _say_groups(groups: NDArray[np.int64]) -> None:
    counts = [count for count in _counts(groups) if count > 1]
    if counts:
        kept = f"{sum(counts):,} photos in {terminal.count(len(counts), 'group')}"
        terminal.say(f"kept together, because they show the same: {kept}, the largest of {max(counts):,}")


def _document(parts: Sequence[Dataset], groups: NDArray[np.int64]) -> dict[str, Any]:
    counts = [count for count in _counts(groups) if count > 1]
    splits = [
        {
            "split": part.split,
            "images": len(part),
            "boxes": part.box_count,
            "per_class": [
                {"name": name, "images": _images_with(part, label), "boxes": _boxes_of(part, label)}
                for label, name in enumerate(part.class_names)
            ],
        }
        for part in parts
    ]
    kept = {"groups": len(counts), "images": sum(counts), "largest": max(counts, default=0)}
    return {"splits": splits, "kept_together": kept}


def _print_table(parts: Sequence[Dataset]) -> None:
    """Photos, with the boxes in brackets, of each class in each split."""
    rows = []
    for label, name in enumerate(parts[0].class_names):
        rows.append((name, *(f"{_images_with(p, label):,} ({_boxes_of(p, label):,})" for p in parts)))
    none = (f"{sum(not len(sample.truth) for sample in part):,}" for part in parts)
    rows += [("no box", *none), ("all", *(f"{len(part):,} ({part.box_count:,})" for part in parts))]
    titles = [part.split for part in parts]
    terminal.print_table(("photos (boxes)", *titles), rows, right=titles)
