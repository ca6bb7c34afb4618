"""`detkit export`: a model as a file that other programs run, proven equal before it is kept."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from detkit.cli import options, terminal
from detkit.errors import MissingExtraError, UsageError, WeightsError
from detkit.weights import ModelCard, find_weights, read_card

if TYPE_CHECKING:
    from detkit.export.make import Made
    from detkit.export.photos import Photos
    from detkit.export.settings import ExportSettings
    from detkit.export.verify import Proof

DEFAULT_IMAGES = 16
_GRAPH, _PROOF = "The graph", "Proof"

Source = Annotated[
    str,
    typer.Argument(
        metavar="W",
        help="Model: a .safetensors (with PyTorch), an .onnx (without), or the name of a shipped model.",
        show_default=False,
    ),
]
To = Annotated[
    Literal["onnx", "openvino", "torchscript"],
    typer.Option("--to", help="What to write: an .onnx, OpenVINO's .xml with its .bin, or a .torchscript."),
]
Nms = Annotated[bool, typer.Option("--nms", help="Put non-max suppression into the graph too.", rich_help_panel=_GRAPH)]
Conf = Annotated[
    float | None,
    typer.Option("--conf", metavar="SCORE", help="For --nms (default: the model's).", rich_help_panel=_GRAPH),
]
Iou = Annotated[
    float | None,
    typer.Option("--iou", metavar="OVERLAP", help="For --nms (default: the model's).", rich_help_panel=_GRAPH),
]
MaxDet = Annotated[
    int | None,
    typer.Option(
        "--max-det", metavar="N", help="For --nms: rows of its output (default: 100).", rich_help_panel=_GRAPH
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="HxW|dynamic",
        help="The canvas it takes, height first (320x416, or 416 for a square), or any "
        "(default: as the source; of a .safetensors any).",
        rich_help_panel=_GRAPH,
    ),
]
Batch = Annotated[
    str | None,
    typer.Option(
        "--batch",
        metavar="N|dynamic",
        help="How many canvases it takes at a time, or any number (default: likewise).",
        rich_help_panel=_GRAPH,
    ),
]
Half = Annotated[
    bool,
    typer.Option(
        "--half", help="Halve the file: weights in float16; uint8 in and float32 out.", rich_help_panel=_GRAPH
    ),
]
Int8 = Annotated[
    bool, typer.Option("--int8", help="Quarter the file: 8-bit weights and layers.", rich_help_panel=_GRAPH)
]
Calib = Annotated[
    Path | None,
    typer.Option(
        "--calib",
        metavar="DATA",
        help="For --int8: a data set (its train split is looked at) or a folder of photos like those it is for.",
        rich_help_panel=_GRAPH,
    ),
]
Verify = Annotated[
    Path | None,
    typer.Option(
        "--verify",
        metavar="DATA",
        help="Compare source and export on these photos: a data set (its val split; labels give AP too) or a folder "
        "(default: noise).",
        rich_help_panel=_PROOF,
    ),
]
NoVerify = Annotated[
    bool, typer.Option("--no-verify", help="Keep the export without comparing.", rich_help_panel=_PROOF)
]
Images = Annotated[
    int | None,
    typer.Option(
        "--images",
        metavar="N",
        min=1,
        help=f"Compare on at most so many photos, evenly spread (default: {DEFAULT_IMAGES}).",
        rich_help_panel=_PROOF,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="FILE", help="Where to (default: named after the model, here)."),
]


def export(
    source: Source,
    to: To = "onnx",
    out: Out = None,
    nms: Nms = False,
    conf: Conf = None,
    iou: Iou = None,
    max_det: MaxDet = None,
    size: Size = None,
    batch: Batch = None,
    half: Half = False,
    int8: Int8 = False,
    calib: Calib = None,
    verify: Verify = None,
    no_verify: NoVerify = False,
    images: Images = None,
    as_json: options.Json = False,
) -> None:
    """Write a model as a file that other programs run, proven equal before it is kept.

    Pixels go in as they are, uint8 RGB [B, H, W, 3]; boxes in pixels of the canvas and scores come out: preprocessing
    and decoding are in the graph, and the model card is in the file. Source and export look at the same photos; where
    their boxes differ by more than rounding explains, nothing is kept and the exit code is 6.

    Example:  detkit export runs/street/best.safetensors --to openvino --verify street
    """
    for option, is_given, other, is_there in (
        ("--half", half, "--int8", not int8),
        ("--no-verify", no_verify, "--verify", verify is None),
        ("--no-verify", no_verify, "--images", images is None),
    ):
        if is_given and not is_there:
            raise UsageError(f"{option} and {other} contradict each other")
    if int8 != (calib is not None):
        raise UsageError("--int8 needs photos to calibrate by: --calib DATA" if int8 else "--calib is for --int8")
    _check_installed()
    from detkit.export.settings import ExportSettings

    try:
        settings = ExportSettings(
            to, nms, conf, iou, max_det, _size(size), _batch(batch), "fp16" if half else "int8" if int8 else "fp32"
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    file = _find(source, to)
    target = out or _default_target(source, settings)
    photos = None if no_verify else _photos(read_card(file), settings, verify or calib, images or DEFAULT_IMAGES)
    _run(file, target, settings, calib, photos, as_json=as_json)


def _check_installed() -> None:
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(f'detkit export needs {error.name}: pip install "detkit-cv[train]"') from error


def _size(text: str | None) -> tuple[int, int] | Literal["dynamic"] | None:
    if text is None or text == "dynamic":
        return text  # type: ignore[return-value]  # mypy does not see that it is "dynamic"
    parts = text.lower().split("x")
    if not 1 <= len(parts) <= 2 or not all(part.isascii() and part.isdigit() and len(part) < 7 for part in parts):
        raise UsageError("--size", found=repr(text), expected="HxW, such as 320x416, a number, or dynamic")
    return int(parts[0]), int(parts[-1])


def _batch(text: str | None) -> int | Literal["dynamic"] | None:
    if text is None or text == "dynamic":
        return text  # type: ignore[return-value]  # as above
    if not (text.isascii() and text.isdigit() and len(text) < 7):
        raise UsageError("--batch", found=repr(text), expected="a number, or dynamic")
    return int(text)


def _find(source: str, to: str) -> Path:
    """The model file: of a shipped model the .safetensors, where there is one and PyTorch to read it."""
    if to != "torchscript":
        if importlib.util.find_spec("torch") is None:
            return find_weights(source)
        try:
            return find_weights(source, ".safetensors")
        except WeightsError:
            return find_weights(source)
    return find_weights(source, ".safetensors")


def _default_target(source: str, settings: ExportSettings) -> Path:
    """A name in this folder that says what it is; one that is taken is refused."""
    from detkit.export.settings import SUFFIX_OF

    parts = [Path(source).stem]
    if settings.nms:
        parts.append("nms")
    if isinstance(settings.size_hw, tuple):
        parts.append("x".join(map(str, settings.size_hw)))
    if isinstance(settings.batch, int):
        parts.append(f"b{settings.batch}")
    if settings.precision != "fp32":
        parts.append(settings.precision)
    target = Path("-".join(parts) + SUFFIX_OF[settings.to])
    if target.exists():
        own = Path(source).exists() and target.samefile(source)
        expected = "another name, with -o" if own else "a name with -o, which may be this one"
        raise UsageError("is the model itself" if own else "is there already", file=target, expected=expected)
    return target


def _photos(card: ModelCard, settings: ExportSettings, data: Path | None, count: int) -> Photos:
    """What to compare on."""
    from detkit.export.photos import find_photos, noise_photos

    if data is not None:
        return find_photos(data, count, card)
    size_hw = settings.size_hw if isinstance(settings.size_hw, tuple) else card.input_hw
    return noise_photos(count, size_hw)


def _run(
    file: Path, target: Path, settings: ExportSettings, calib: Path | None, photos: Photos | None, *, as_json: bool
) -> None:
    from detkit.export.make import check_target, make
    from detkit.export.photos import find_photos
    from detkit.export.quantise import CALIBRATION_PHOTOS
    from detkit.export.verify import TOLERANCES, Proof, verify

    check_target(file, target, settings)
    card = read_card(file)
    if isinstance(settings.size_hw, tuple):
        from dataclasses import replace

        card = replace(card, input_hw=settings.size_hw)
    calibration = None if calib is None else find_photos(calib, CALIBRATION_PHOTOS, card, split="train")
    with make(file, settings, () if calibration is None else calibration.canvases(card)) as made:
        proof = None
        if photos is not None:
            reports = verify(made.open_source(), made.open(), photos, TOLERANCES[settings.precision])
            for report in terminal.progress(reports, total=2 * len(photos) + 1, title="comparing"):
                proof = report if isinstance(report, Proof) else None
            assert proof is not None
            proof.require()
        files = made.keep(target)
        _print(made, files, proof, as_json=as_json)


def _print(made: Made, files: list[Path], proof: Proof | None, *, as_json: bool) -> None:
    size_bytes = sum(path.stat().st_size for path in files)
    if as_json:
        document: dict[str, Any] = {
            "source": str(made.source),
            "files": [str(path) for path in files],
            "bytes": size_bytes,
            "to": made.settings.to,
            "precision": made.settings.precision,
            "ends": made.ends,
            "input_hw": list(made.card.input_hw),
            "max_det": made.card.max_det,
            "proof": None if proof is None else proof.to_dict(),
        }
        terminal.print_json(document)
        return
    ends = ", ".join(f"{name} [{', '.join(lengths)}]" for name, lengths in made.ends.items())
    terminal.say(f"{' and '.join(map(str, files))}: {size_bytes / 1e6:.1f} MB from {made.source}; {ends}")
    if proof is None:
        terminal.warn("kept without a comparison with its source")
        return
    allowed = proof.tolerance
    most = "" if allowed.within == 1 else f" for {allowed.within:.0%} of them"
    rows = [
        ("boxes matched", f"{proof.matched} of {proof.boxes}", f"{allowed.matched:.0%}"),
        ("largest difference of a box", f"{proof.box_px:.2g} px", f"{allowed.box_px:g} px{most}"),
        ("largest difference of a score", f"{proof.score:.2g}", f"{allowed.score:g}{most}"),
        *(
            (f"{name}, source and export", f"{a:.4f} {b:.4f} ({100 * (b - a):+.2f} points)", "")
            for name, (a, b) in proof.figures.items()
        ),
    ]
    terminal.print_table((f"on {terminal.count(proof.images, 'photo')} of {proof.photos}", "found", "allowed"), rows)
    if proof.photos == "noise":
        terminal.say("compared on noise, for want of photos; name some like yours: --verify DATA")
