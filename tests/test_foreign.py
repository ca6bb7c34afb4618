"""ONNX files of other projects through `--adapter`: what fits runs like any model, what does not is one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_model import write_fake_model
from foreign_model import write_means, write_tables
from typer.testing import CliRunner, Result

from detkit import cli
from detkit.coco_names import COCO_NAMES
from detkit.engines.adapters import PRESETS, Adapter, read_adapter
from detkit.engines.foreign import ForeignEngine, read_names
from detkit.errors import DataError, UsageError, WeightsError
from detkit.images import write_image
from detkit.infer.predictor import Predictor
from detkit.onnx_header import End, adapter_of_file, likely_adapter, read_ends
from detkit.weights import read_card

RUNNER = CliRunner()
NAMES = ("cat", "dog")
GRID = np.zeros((21, 7), np.float32)  # 32x32 px: 16 + 4 + 1 cells
GRID[5] = [0, 0, 0, 0, 1, 0, 0.5]  # stride 8, row 1, column 1: centre 8, 8, size 8
COLUMNS = np.zeros((6, 21), np.float32)  # [4+K, N]
COLUMNS[:, :2] = [[8, 20], [8, 24], [8, 4], [8, 8], [0, 0.75], [0.5, 0]]
ROWS = np.array([[4, 4, 12, 12, 0.5, 1], [0, 0, 0, 0, 0, 0]], np.float32)
BOX_ON_CANVAS = [4, 4, 12, 12]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """64 x 32 px, so that a canvas of 32 px shows it in 32 x 16 of them."""
    path = tmp_path / "photo.png"
    write_image(path, np.full((32, 64, 3), (255, 51, 0), np.uint8))
    return path


@pytest.fixture
def names(tmp_path: Path) -> Path:
    path = tmp_path / "pets.names"
    path.write_text("cat\ndog\n")
    return path


@pytest.fixture
def yolox(tmp_path: Path) -> Path:
    return write_tables(tmp_path / "yolox.onnx", {"output": GRID})


def run(*arguments: str | Path) -> Result:
    return RUNNER.invoke(cli.app, [str(argument) for argument in arguments])


def one_box(engine: ForeignEngine, batch: int = 1) -> np.ndarray:
    """The box of "dog" that every network here finds on every canvas."""
    height, width = engine.card.input_hw
    found = engine.run(np.zeros((batch, height, width, 3), np.uint8))
    assert found.scores.shape[0] == batch
    every = found.boxes_xyxy[found.scores[..., 1] == 0.5]
    assert len(every) == batch
    assert (every == every[0]).all()
    return every[0]


@pytest.mark.parametrize(
    ("preset", "tables"),
    [
        (["yolox"], {"output": GRID}),
        (["yolox-decoded"], {"output": np.array([[8, 8, 8, 8, 1, 0, 0.5]] + [[0] * 7] * 20, np.float32)}),
        (["yolov5"], {"output0": np.array([[8, 8, 8, 8, 0.5, 0, 1]] + [[0] * 7] * 9, np.float32)}),
        (["yolov8"], {"output0": COLUMNS}),
        (["end2end"], {"output0": ROWS}),
        (
            ["boxes-scores", "box_format=xyxy", "box_unit=px"],
            {"a": np.array([BOX_ON_CANVAS], np.float32), "b": np.array([[0, 0.5]], np.float32)},
        ),
        (
            ["boxes-scores", "box_format=xyxy", "box_unit=px"],
            {
                "labels": np.array([1]),
                "boxes": np.array([BOX_ON_CANVAS], np.float32),
                "scores": np.array([0.5], np.float32),
            },
        ),
    ],
)
@pytest.mark.parametrize("shape", [(1, 3, 32, 32), ("B", 3, 32, 32), (2, 3, 32, 32), ("B", 32, 32, 3), (3, 32, 32)])
@pytest.mark.parametrize("known_shapes", [True, False])
def test_every_face_gives_the_same_box(
    preset: list[str], tables: dict[str, Any], shape: tuple[Any, ...], known_shapes: bool, tmp_path: Path
) -> None:
    path = write_tables(tmp_path / "m.onnx", tables, input_shape=shape, known_shapes=known_shapes)
    if not known_shapes and preset[0] == "boxes-scores":
        preset = [*preset, f"boxes_output={'a' if 'a' in tables else 'boxes'}"]
    engine = ForeignEngine(path, read_adapter(preset), NAMES)
    assert engine.card.input_hw == (32, 32)
    assert engine.card.class_names == NAMES
    for batch in (1, 3):
        assert one_box(engine, batch).tolist() == BOX_ON_CANVAS


@pytest.mark.parametrize(
    ("fit", "expected"),
    [
        ("letterbox", [8, 0, 24, 8]),  # 16 px of 32 are the photo, 8 above it; the box is cut there
        ("letterbox-corner", [8, 8, 24, 24]),
        ("stretch", [8, 4, 24, 12]),
    ],
)
def test_boxes_return_to_the_photo_as_it_was_placed(
    fit: str, expected: list[float], photo: Path, tmp_path: Path
) -> None:
    path = write_tables(tmp_path / "m.onnx", {"output0": COLUMNS * (COLUMNS[4] == 0)})
    engine = ForeignEngine(path, read_adapter(["yolov8", f"fit={fit}"]), NAMES)
    [found] = Predictor(engine).predict_files([photo])
    assert found.boxes_xyxy.tolist() == [expected]
    assert (found.labels.tolist(), found.scores.tolist()) == ([1], [0.5])


@pytest.mark.parametrize(
    ("settings", "input_type", "divide_by", "expected"),
    [
        ([], "float32", 1, [1, 0.2, 0]),
        ([], "float16", 1, [1, 0.2, 0]),
        (["channels=bgr"], "float32", 1, [0, 0.2, 1]),
        (["divide_by=1", "channels=bgr"], "float32", 255, [0, 0.2, 1]),
        ([], "uint8", 255, [1, 0.2, 0]),
        (["mean=0.5,0.2,0", "std=0.5,1,1"], "float32", 1, [1, 0, 0]),
    ],
)
@pytest.mark.parametrize("shape", [("B", 3, 8, 8), ("B", 8, 8, 3), (3, 8, 8)])
def test_the_network_sees_the_colours_it_wants(
    settings: list[str], input_type: str, divide_by: float, expected: list[float], shape: Any, tmp_path: Path
) -> None:
    path = write_means(tmp_path / "m.onnx", shape, input_type, divide_by)
    adapter = read_adapter(["boxes-scores", "box_format=xyxy", "box_unit=px", *settings])
    engine = ForeignEngine(path, adapter, ("first", "second", "third"))
    found = engine.run(np.full((2, 8, 8, 3), (255, 51, 0), np.uint8))
    assert found.scores[1, 0] == pytest.approx(expected, abs=1e-3)
    assert found.boxes_xyxy[1, 0].tolist() == [0, 0, 8, 4]


def test_the_pad_of_a_corner_letterbox_is_right_and_below(photo: Path, tmp_path: Path) -> None:
    """32 x 32 canvas, the photo in its upper half: channel means are half photo, half grey."""
    path = write_means(tmp_path / "m.onnx", (1, 3, 32, 32), divide_by=255)
    texts = ["boxes-scores", "box_format=xyxy", "box_unit=px", "divide_by=1", "fit=letterbox-corner", "pad_value=85"]
    engine = ForeignEngine(path, read_adapter(texts), ("r", "g", "b"))
    [found] = Predictor(engine, conf=0.01).predict_files([photo])
    assert dict(zip(found.labels.tolist(), found.scores.tolist(), strict=True)) == pytest.approx(
        {0: (255 + 85) / 510, 1: (51 + 85) / 510, 2: 85 / 510}
    )


def test_ultralytics_names_size_and_licence_are_taken_from_the_file(tmp_path: Path) -> None:
    own = {"names": "{0: 'cat', 1: 'dog'}", "imgsz": "[32, 64]", "task": "detect", "license": "AGPL-3.0"}
    path = write_tables(tmp_path / "m.onnx", {"o": COLUMNS}, input_shape=("B", 3, "H", "W"), metadata=own)
    engine = ForeignEngine(path, read_adapter(["yolov8"]))
    assert engine.card.class_names == NAMES
    assert engine.card.input_hw == (32, 64)
    assert engine.card.licences == {"weights": "AGPL-3.0"}
    assert ForeignEngine(path, read_adapter(["yolov8", "size_px=96"]), ("a", "b")).card.input_hw == (96, 96)
    assert ForeignEngine(path, read_adapter(["yolov8"]), ("a", "b")).card.class_names == ("a", "b")
    other = write_tables(tmp_path / "s.onnx", {"o": COLUMNS}, metadata=own | {"task": "segment"})
    with pytest.raises(WeightsError, match="is a network for another task; found 'segment'; expected 'detect'"):
        ForeignEngine(other, read_adapter(["yolov8"]), NAMES)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{0: 'cat'",
        "__import__('os').system('true')",
        "{0: 'cat', 2: 'dog'}",
        "['cat', 'cat']",
        "[1, 2]",
        "{0: open('x')}",
        "[" * 100_000,
        "['cat', '']",
        "'" + "x" * (2 << 20) + "'",
        "\x00",
    ],
)
def test_names_that_are_none_are_asked_for(text: str, tmp_path: Path) -> None:
    path = write_tables(tmp_path / "m.onnx", {"o": COLUMNS}, metadata={"names": text})
    with pytest.raises(UsageError, match=r"add --names; expected a file with its 2 class names, one a line"):
        ForeignEngine(path, read_adapter(["yolov8"]))


def test_a_list_of_names_will_do(tmp_path: Path) -> None:
    path = write_tables(tmp_path / "m.onnx", {"o": COLUMNS}, metadata={"names": "['cat', 'dog']"})
    assert ForeignEngine(path, read_adapter(["yolov8"])).card.class_names == NAMES


@pytest.mark.parametrize(
    ("preset", "tables", "shape", "said"),
    [
        ("yolov8", {"output": GRID}, (1, 3, 32, 32), "expected one table [B, 4+K, N], a column for each box (it looks"),
        ("yolox", {"output0": COLUMNS}, (1, 3, 32, 32), "found output0 float32 [1, 6, 21]; expected one table [B, N,"),
        ("yolox", {"o": np.zeros((63, 7))}, (1, 3, 32, 32), "63 rows; expected 21, one for each cell of maps"),
        ("end2end", {"output": GRID}, (1, 3, 32, 32), "expected one table [B, N, 6] (it looks like yolox)"),
        (
            "yolov8",
            {"o": COLUMNS},
            (1, 1, 32, 32),
            "the network's input; found images float32 [1, 1, 32, 32]",
        ),
        ("yolov8", {"o": COLUMNS, "p": COLUMNS}, (1, 3, 32, 32), "the network's outputs"),
        ("yolov8", {"o": np.zeros((3, 9))}, (1, 3, 32, 32), "the network's outputs"),
        ("yolov8", {"o": np.zeros((7, 9))}, (1, 3, 32, 32), "found 2 class names; expected 3, as it has scores for"),
        ("yolov5", {"o": np.zeros((9, 8))}, (1, 3, 32, 32), "found 2 class names; expected 3"),
    ],
)
def test_an_adapter_that_does_not_fit_is_one_line(
    preset: str, tables: dict[str, Any], shape: tuple[Any, ...], said: str, tmp_path: Path
) -> None:
    tables = {name: table.astype(np.float32) for name, table in tables.items()}
    path = write_tables(tmp_path / "m.onnx", tables, input_shape=shape)
    with pytest.raises(WeightsError) as refused:
        ForeignEngine(path, read_adapter([preset]), NAMES)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_shapes_that_only_show_when_it_runs_are_checked_then(tmp_path: Path) -> None:
    path = write_tables(tmp_path / "m.onnx", {"o": GRID[:, :6]}, known_shapes=False)
    canvas = np.zeros((1, 32, 32, 3), np.uint8)
    with pytest.raises(WeightsError, match="do not fit the adapter: scores of 1 classes, expected 2"):
        ForeignEngine(path, read_adapter(["yolox"]), NAMES).run(canvas)
    path = write_tables(tmp_path / "n.onnx", {"o": GRID[:20]}, known_shapes=False)
    with pytest.raises(WeightsError, match="do not fit the adapter"):
        ForeignEngine(path, read_adapter(["yolox"]), NAMES).run(canvas)
    path = write_tables(tmp_path / "r.onnx", {"o": GRID[0]}, input_shape=("B", 3, 32, 32), known_shapes=False)
    with pytest.raises(WeightsError, match=r"an array of shape \(1, 2, 7\) for 2 canvases"):
        ForeignEngine(path, read_adapter(["yolov5"]), NAMES).run(np.concatenate([canvas, canvas]))


def test_outputs_that_look_alike_must_be_named(tmp_path: Path) -> None:
    four = {"one": np.array([[4, 4, 12, 12]], np.float32), "two": np.array([[0, 0.5, 0, 0]], np.float32)}
    path = write_tables(tmp_path / "m.onnx", four)
    plain = ["boxes-scores", "box_format=xyxy", "box_unit=px"]
    with pytest.raises(WeightsError, match="--adapter boxes_output=NAME"):
        ForeignEngine(path, read_adapter(plain), ("a", "b", "c", "d"))
    with pytest.raises(WeightsError, match="the network's outputs"):
        ForeignEngine(path, read_adapter([*plain, "boxes_output=three"]), ("a", "b", "c", "d"))
    for named in (["boxes_output=one"], ["boxes_output=one", "scores_output=two"], ["scores_output=two"]):
        assert (
            one_box(ForeignEngine(path, read_adapter([*plain, *named]), ("a", "b", "c", "d"))).tolist() == BOX_ON_CANVAS
        )


def test_a_size_is_needed_where_the_network_takes_any_and_refused_where_it_does_not(tmp_path: Path) -> None:
    path = write_tables(tmp_path / "m.onnx", {"o": COLUMNS}, input_shape=("B", 3, "H", "W"))
    with pytest.raises(UsageError, match="takes any size; expected --adapter size_px=640"):
        ForeignEngine(path, read_adapter(["yolov8"]), NAMES)
    fixed = write_tables(tmp_path / "f.onnx", {"o": COLUMNS}, input_shape=(1, 3, 32, 64))
    assert ForeignEngine(fixed, read_adapter(["yolov8"]), NAMES).card.input_hw == (32, 64)
    with pytest.raises(UsageError, match="its own size only; expected 64x32 px"):
        ForeignEngine(fixed, read_adapter(["yolov8", "size_px=64"]), NAMES)


def test_a_detkit_model_needs_no_adapter(tmp_path: Path) -> None:
    path = write_fake_model(tmp_path / "fake.onnx")
    with pytest.raises(UsageError, match="has a detkit model card, which says all an adapter would"):
        ForeignEngine(path, read_adapter(["yolox"]), NAMES)


@pytest.mark.parametrize(
    ("input_shape", "shapes", "expected"),
    [
        ((1, 3, 416, 416), [(1, 3549, 85)], "yolox"),
        ((None, 3, 416, 416), [(None, 3549, 6)], "yolox"),
        ((1, 3, 640, 640), [(1, 25200, 85)], "yolov5"),
        ((1, 3, 640, 640), [(1, 25200, 85), (1, 3, 80, 80, 85)], "yolov5"),
        ((1, 3, 640, 640), [(1, 84, 8400)], "yolov8"),
        ((1, 640, 640, 3), [(1, 5, 8400)], "yolov8"),
        ((1, 3, 640, 640), [(1, 300, 6)], "end2end"),
        ((1, 3, None, None), [(1, None, 6)], "end2end"),
        ((1, 3, 640, 640), [(1, 300, 4), (1, 300, 80)], "boxes-scores"),
        ((1, 3, 224, 224), [(1, 1000)], None),
        ((1, 3, None, None), [(None, None, None)], None),
        ((1, 3, 64, 64), [], None),
    ],
)
def test_the_likely_adapter_is_told_by_shapes(
    input_shape: tuple[int | None, ...], shapes: list[tuple[int | None, ...]], expected: str | None
) -> None:
    outputs = [End(f"o{k}", shape) for k, shape in enumerate(shapes)]
    assert likely_adapter([End("images", input_shape)], outputs) == expected
    assert expected is None or expected in PRESETS


def test_a_file_without_a_card_says_which_adapter_to_try(yolox: Path, tmp_path: Path) -> None:
    assert read_ends(yolox) == ([End("images", (1, 3, 32, 32))], [End("output", (1, 21, 7))])
    with pytest.raises(WeightsError, match=r"no detkit model card; .* another project: --adapter yolox --names FILE"):
        read_card(yolox)
    for metadata, expected in (
        ({"stride": "32", "names": "{}"}, "yolov5"),
        ({"stride": "32", "task": "detect"}, "yolov8"),
        ({"stride": "32", "task": "detect", "end2end": "True"}, "end2end"),
        ({}, None),
    ):
        shape = ("B", 3, "H", "W")
        path = write_tables(
            tmp_path / "m.onnx", {"o": COLUMNS}, input_shape=shape, metadata=metadata, known_shapes=False
        )
        assert adapter_of_file(path) == expected
    with pytest.raises(WeightsError, match=r"no detkit model card; .* other projects' \.onnx detectors with --adapter"):
        read_card(path)


def test_names_come_from_a_list_a_yaml_or_coco(names: Path, tmp_path: Path) -> None:
    assert read_names(str(names)) == NAMES
    assert read_names("coco") == COCO_NAMES
    assert len(set(COCO_NAMES)) == 80
    assert (COCO_NAMES[0], COCO_NAMES[11], COCO_NAMES[79]) == ("person", "stop sign", "toothbrush")
    data = tmp_path / "data.yaml"
    data.write_text("train: x\nnames:\n  0: cat\n  1: dog\n")
    assert read_names(str(data)) == NAMES
    for text in ("", "cat\ncat\n", "cat\n\ndog\n"):
        names.write_text(text)
        with pytest.raises(DataError):
            read_names(str(names))
    with pytest.raises(DataError):
        read_names(str(tmp_path / "absent.txt"))


def test_detect_writes_what_another_projects_network_finds(
    yolox: Path, names: Path, photo: Path, tmp_path: Path
) -> None:
    arguments = ("detect", photo, "--weights", yolox, "--adapter", "yolox", "--names", names)
    done = run(*arguments, "--out", tmp_path / "out", "--to", "coco,csv,pictures", "--json")
    assert done.exit_code == 0, done.stderr
    assert done.stderr.splitlines()[0] == ("yolox.onnx: 2 classes, 32x32 px, bgr, letterbox-corner; boxes cxcywh in px")
    [image] = json.loads(done.stdout)["images"]
    [found] = image["detections"]
    assert (found["class"], found["score"], found["box_xyxy"]) == ("dog", 0.5, [8, 8, 24, 24])
    header = json.loads((tmp_path / "out" / "detections.jsonl").read_text().splitlines()[0])
    assert header["model"]["file"] == "yolox.onnx"
    assert header["settings"]["adapter"] == ["yolox"]
    done = run(*arguments, "--adapter", "fit=stretch", "--out", tmp_path / "out", "--to", "coco", "--resume")
    assert done.exit_code != 0
    assert "made with other settings" in done.stderr


def test_eval_measures_it(yolox: Path, names: Path, photo: Path, tmp_path: Path) -> None:
    labels = {
        "images": [{"id": 1, "file_name": "photo.png", "width": 64, "height": 32}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 2, "bbox": [8, 8, 16, 16], "area": 256, "iscrowd": 0}],
    }
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    arguments = ("eval", tmp_path / "labels.json", "--weights", yolox, "--adapter", "yolox")
    done = run(*arguments, "--names", names, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["AP"] == pytest.approx(1)
    done = run(*arguments, "--names", names, "--write-thresholds", tmp_path / "copy.onnx")
    assert (done.exit_code, "no model card to change" in done.stderr) == (2, True)
    names.write_text("dog\ncat\n")
    assert run(*arguments, "--names", names).exit_code != 0  # the classes stand in another order


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--adapter", "yolox"], 2, "name its file with --weights"),
        (["--names", "coco"], 2, "--names is for a network of another project; give --adapter too"),
        (["--weights", "M", "--adapter", "yolox"], 2, "add --names; expected a file with its 2 class names"),
        (["--weights", "M", "--adapter", "yolox", "--names", "coco"], 4, "found 80 class names; expected 2"),
        (["--weights", "M", "--adapter", "yolox", "--names", "N", "--backend", "openvino"], 2, "runs in onnxruntime"),
        (["--weights", "M", "--adapter", "yolov8", "--names", "N"], 4, "it looks like yolox"),
        (["--weights", "M", "--adapter", "yolox", "--names", "N", "--size", "64"], 2, "its own size only"),
        (["--weights", "M"], 4, "--adapter yolox --names FILE"),
    ],
)
def test_what_is_wrong_with_the_command_line_is_one_line(
    arguments: list[str], code: int, said: str, yolox: Path, names: Path, photo: Path
) -> None:
    given = [{"M": str(yolox), "N": str(names)}.get(word, word) for word in arguments]
    done = run("detect", photo, "--no-pictures", *given)
    assert done.exit_code == code, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr
    if "--size" not in arguments and "--backend" not in arguments and code == 2:
        assert run("eval", photo.parent, *given).exit_code == 2


def test_it_runs_without_torch_and_onnx(yolox: Path, names: Path, photo: Path) -> None:
    script = """
import sys
for name in ("torch", "torchvision", "timm", "safetensors", "onnx", "onnxscript", "openvino"):
    sys.modules[name] = None
from detkit.cli import main
main()
"""
    words = ["detect", photo, "--no-pictures", "--weights", yolox, "--adapter", "yolox", "--names", names]
    done = subprocess.run([sys.executable, "-c", script, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "dog" in done.stdout


def test_the_made_up_card_tells_how_it_was_read(yolox: Path) -> None:
    card = ForeignEngine(yolox, Adapter("grid", "cxcywh", "px"), NAMES).card
    assert card.task == "foreign"
    assert card.architecture["adapter"]["layout"] == "grid"
    assert "size_px" not in card.architecture["adapter"]
    assert card.architecture["adapter"]["mean"] == (0, 0, 0)
    assert type(card).from_json(card.to_json()).thresholds == card.thresholds
