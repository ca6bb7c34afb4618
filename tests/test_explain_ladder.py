"""`explain ladder`: both modes compared and counted, the map of scores and the winners by hand, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detkit.cli import main
from detkit.engines import Outputs
from detkit.images import read_image, write_image
from detkit.infer.explain_ladder import EQUAL_UP_TO, LadderExplanation, climb, explain_ladder
from detkit.infer.explain_ladder_picture import draw_ladder, score_map, winners
from detkit.infer.pyramid import Sliding, pyramid
from detkit.infer.selection import Selection
from detkit.weights import ModelCard

SIDE, STRIDE, SHAPE_WH = 16, 4, (8.0, 12.0)
CARD = ModelCard(
    "window",
    {"stride": STRIDE},
    ("red",),
    (SIDE, SIDE),
    anchors_wh_px=((SHAPE_WH,),),
    pad_value=0,
    thresholds={"conf": 0.6, "iou": 0.3},
)
SELECTION = Selection(0.97, 0.3)


class Redness:
    """A window model in NumPy: the score of a window is the mean of its red."""

    name, parallel, card = "redness", 1, CARD

    def __init__(self, off: float = 0.0) -> None:
        self.off = off  # what a canvas of several windows is scored too high by
        self.batches: list[tuple[int, ...]] = []

    def run(self, batch_rgb: np.ndarray) -> Outputs:
        self.batches.append(batch_rgb.shape[:3])
        views = np.lib.stride_tricks.sliding_window_view(batch_rgb[..., 0], (SIDE, SIDE), axis=(1, 2))
        scores = (views[:, ::STRIDE, ::STRIDE].mean(axis=(3, 4)) / 255).astype(np.float32)  # [B, rows, columns]
        y, x = np.mgrid[: scores.shape[1], : scores.shape[2]] * STRIDE + SIDE // 2
        half = np.array(SHAPE_WH) / 2
        centre = np.stack([x, y], axis=2)
        one = np.concatenate([centre - half, centre + half], axis=2).reshape(-1, 4).astype(np.float32)
        scores = scores + self.off * (scores[0].size > 1)
        return Outputs(np.repeat(one[None], len(scores), axis=0), scores.reshape(len(scores), -1, 1))


def photo(size_hw: tuple[int, int] = (40, 52)) -> np.ndarray:
    """Dark, with one red square 16 px large at (20, 12)."""
    image = np.random.default_rng(0).integers(0, 60, (*size_hw, 3), dtype=np.uint8)
    image[12:28, 20:36, 0] = 255
    return image


def explained(image: np.ndarray, engine: Redness | None = None, **sliding: Any) -> LadderExplanation:
    engine = engine or Redness()
    levels = pyramid(image, CARD, Sliding(**sliding))
    return explain_ladder(list(climb(engine, levels)), SELECTION, CARD.class_names)


def test_both_modes_are_run_counted_and_compared() -> None:
    engine = Redness()
    result = explained(photo(), engine)
    windows = sum(rows * columns for rows, columns in (rung.conv.level.grid_hw for rung in result.rungs))
    assert result.evaluations == {"window": windows, "conv": len(result.rungs)}
    assert len(result.rungs) > 3
    assert result.max_score_difference < 1e-6
    assert result.same_detections
    assert result.speedup == pytest.approx(result.seconds["window"] / result.seconds["conv"])
    assert {shape[1:] for shape in engine.batches if shape[0] > 1} == {(SIDE, SIDE)}  # windows go in batches
    document = json.loads(json.dumps(result.to_dict()))
    assert document["evaluations"]["window"] == sum(level["rows"] * level["columns"] for level in document["levels"])
    assert {"max_score_difference", "speedup", "seconds", "same_detections"} <= document.keys()
    (found,) = document["detections"]
    np.testing.assert_allclose(found["box"], [24, 14, 32, 26], atol=1e-4)  # the shape in the middle of the square
    assert found["class"] == "red"


def test_a_difference_between_the_modes_is_told() -> None:
    result = explained(photo(), Redness(0.01))
    assert result.max_score_difference == pytest.approx(0.01, abs=1e-6)
    assert result.max_score_difference > EQUAL_UP_TO
    assert not result.same_detections
    assert not explained(photo(), Redness(0.7)).same_detections  # not even as many


def test_the_map_has_each_cells_score_around_the_middle_of_its_window() -> None:
    result = explained(photo(), scale_step=4)
    (rung,) = [rung for rung in result.rungs if rung.conv.level.scale == 1]
    only = LadderExplanation((rung,), SELECTION, ("red",), result.detections, result.detections)
    best = score_map(only, (80, 104), 2.0)
    row, column = np.unravel_index(rung.conv.scores[..., 0].argmax(), rung.conv.scores.shape[:2])
    x1, y1, x2, y2 = rung.conv.windows_xyxy[row, column]
    x, y = int(x1 + x2), int(y1 + y2)  # its middle, enlarged twice
    cell = best[y - STRIDE + 1 : y + STRIDE - 1, x - STRIDE + 1 : x + STRIDE - 1]
    assert cell.shape == (6, 6)
    assert (cell == rung.conv.scores[row, column, 0]).all()
    assert (best[y, x - 3 * STRIDE : x - STRIDE - 1] == rung.conv.scores[row, column - 1, 0]).all()
    assert best.max() == rung.conv.scores.max()


def test_the_window_that_won_is_found() -> None:
    result = explained(photo())
    ((level, row, column),) = winners(result)
    won = result.rungs[level].conv
    assert won.scores[row, column, 0] == result.detections.scores[0]
    np.testing.assert_allclose(won.boxes_xyxy[row, column], result.detections.boxes_xyxy[0], atol=1e-4)


@pytest.mark.parametrize("size_hw", [(40, 52), (9, 90), (90, 9), (8, 8)])
@pytest.mark.parametrize("dark", [False, True])
def test_the_picture_of_any_photo(size_hw: tuple[int, int], dark: bool) -> None:
    image = np.zeros((*size_hw, 3), np.uint8) if dark else photo(size_hw)
    before = image.copy()
    picture = draw_ladder(explained(image), image)
    assert picture.dtype == np.uint8
    assert picture.shape[1] > 3 * min(760, 760 * size_hw[1] // max(size_hw))
    np.testing.assert_array_equal(image, before)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch = pytest.importorskip("torch")
    from detkit.export import export_onnx
    from detkit.models.build import architecture, build
    from detkit.models.window import WindowSettings

    settings = WindowSettings("lenet5", pretrained=False, stride=4, hidden=8)
    shapes = (((12.0, 16.0),),)
    card = ModelCard("window", architecture(settings), ("face",), (40, 40), anchors_wh_px=shapes, crop_margin=0.25)
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("window") / "window.onnx"
    export_onnx(build(card).eval(), card, path)
    return path


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs `detkit explain ladder ARGS` in an empty folder; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["detkit", "explain", "ladder", *map(str, args)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run


def test_the_command_with_a_network(shell: Any, tmp_path: Path, model: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    write_image(tmp_path / "p.png", image)
    code, out, err = shell("p.png", "-w", model, "--json", "--conf", "0.1", "--scale-step", "1.5")
    assert code == 0, err
    document = json.loads(out)
    assert document["max_score_difference"] < EQUAL_UP_TO
    assert document["same_detections"]
    assert document["evaluations"]["window"] > 10 * document["evaluations"]["conv"]
    assert document["picture"] == "runs/explain/p-ladder.png"
    assert read_image(document["picture"]).std() > 10
    code, out, err = shell("p.png", "-w", model, "-o", "l.png", "--stride", "8", "--smallest", "8")
    assert code == 0, err
    assert "runs of the network" in out
    assert "largest difference of a score" in err
    assert Path("l.png").is_file()


def test_what_the_command_refuses(shell: Any, tmp_path: Path, model: Path) -> None:
    write_image(tmp_path / "p.png", np.zeros((60, 60, 3), np.uint8))
    write_image(tmp_path / "small.png", np.zeros((60, 8, 3), np.uint8))
    for args, code, said in (
        (("p.png", "-w", "street"), 4, "street.onnx: is no window model; found a model for 'yolo'"),
        (("small.png", "-w", model), 3, "small.png: is too small for the window model; found 8 x 60 px"),
        (("p.png", "-w", model, "--stride", "6"), 2, "stride in the mode 'conv'; found 6 px"),
        (("p.png", "-w", model, "--scale-step", "1"), 2, "scale step of a window model; found 1.0"),
        (("p.png", "-w", "nothing.onnx"), 4, "nothing.onnx"),
        (("nothing.png", "-w", model), 3, "nothing.png"),
    ):
        left, out, err = shell(*args)
        assert (left, out) == (code, ""), (args, err)
        assert said in err.splitlines()[-1]
