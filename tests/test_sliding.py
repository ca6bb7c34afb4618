"""Sliding over photos: the pyramid, both modes of it, and the detections that come of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
from fake_model import write_fake_model  # noqa: E402
from small_windows import SHAPES, window_model  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from detkit.cli import app  # noqa: E402
from detkit.engines import Outputs  # noqa: E402
from detkit.engines.torch import TorchEngine  # noqa: E402
from detkit.errors import DataError, UsageError, WeightsError  # noqa: E402
from detkit.export import export_onnx  # noqa: E402
from detkit.images import read_image, write_image  # noqa: E402
from detkit.infer.predictor import Predictor  # noqa: E402
from detkit.infer.pyramid import OVERHANG, Sliding, level_scales, pyramid  # noqa: E402
from detkit.infer.selection import Selection  # noqa: E402
from detkit.infer.sliding import WindowDetector, choose, conv_scores, window_scores  # noqa: E402
from detkit.infer.tiles import Tiling  # noqa: E402
from detkit.weights import ModelCard  # noqa: E402

CARD = ModelCard(
    "window", {"stride": 8}, ("cat", "dog"), (64, 64), anchors_wh_px=(SHAPES,), crop_margin=0.1
)  # for what needs no network


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    return TorchEngine(*window_model())


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return read_image(Path(__file__).parent / "data" / "photos" / "chelsea.jpg")[:120, 60:260]


# the pyramid


def test_the_scales_go_from_the_smallest_objects_to_the_largest_window_that_fits() -> None:
    scales = level_scales((100, 200), CARD, Sliding(scale_step=2.0))
    assert scales == [1.0, 0.5]  # at a quarter the shorter side has 25 px, and the window needs 32
    assert level_scales((32, 500), CARD, Sliding()) == [1.0]
    assert level_scales((31, 500), CARD, Sliding()) == []
    # a 20 px object, with a tenth of room on each side, fills the window of 64 px at 64 / 24
    scales = level_scales((100, 200), CARD, Sliding(scale_step=2.0, smallest_px=20))
    assert scales == pytest.approx([64 / 24, 64 / 48, 64 / 96, 64 / 192])
    of_card = replace(CARD, smallest_px=20.0)
    assert level_scales((100, 200), of_card, Sliding(scale_step=2.0)) == scales
    assert level_scales((100, 200), of_card, Sliding(scale_step=2.0, smallest_px=40))[0] == pytest.approx(64 / 48)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(32, 200), st.integers(32, 200), st.sampled_from([1, 3, 8, 16, 40]), st.floats(1.1, 2.0), st.booleans()
)
def test_the_windows_of_a_level_cover_the_photo_and_reach_over_its_borders(
    height: int, width: int, stride: int, step: float, enlarged: bool
) -> None:
    sliding = Sliding("window", stride, step, 20.0 if enlarged else None)
    for level in pyramid(np.zeros((height, width, 3), np.uint8), CARD, sliding):
        rows, columns = level.grid_hw
        assert level.canvas.shape == (64 + (rows - 1) * stride, 64 + (columns - 1) * stride, 3)
        left, top = level.placement.offset_xy
        scale_x, scale_y = level.placement.scale_xy
        right, bottom = left + width * scale_x, top + height * scale_y
        assert (left, top) == (OVERHANG * 64, OVERHANG * 64)
        for end, side in ((bottom, level.canvas.shape[0]), (right, level.canvas.shape[1])):
            assert end == pytest.approx(round(end))  # the photo has whole pixels there
            assert OVERHANG * 64 <= side - end + 1e-6 < OVERHANG * 64 + stride + 1e-6 or side == 64


def test_the_photo_lies_on_the_level_pixel_by_pixel_and_the_rest_is_grey() -> None:
    image = noise(70, 100)
    level = pyramid(image, CARD)[0]
    assert level.scale == 1.0
    assert np.array_equal(level.canvas[16:86, 16:116], image)
    assert (level.canvas[:16] == 114).all()
    assert (level.canvas[86:] == 114).all()
    assert (level.canvas[:, :16] == 114).all()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"mode": "both"}, "mode of a window model"),
        ({"stride_px": 0}, "stride of a window model"),
        ({"scale_step": 1.0}, "scale step"),
        ({"scale_step": float("nan")}, "scale step"),
        ({"smallest_px": 0}, "smallest object"),
        ({"smallest_px": float("inf")}, "smallest object"),
    ],
)
def test_a_bad_setting_is_one_line(changes: dict[str, object], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        Sliding(**changes)  # type: ignore[arg-type]


def test_a_stride_the_network_cannot_be_run_at_is_refused_in_the_mode_conv() -> None:
    with pytest.raises(UsageError, match=r"found 12 px; expected a multiple of 8 px"):
        Sliding("conv", 12).step_px(CARD)
    assert Sliding("window", 12).step_px(CARD) == 12
    assert Sliding("conv", 24).step_px(CARD) == 24
    assert Sliding().step_px(CARD) == 8


# both modes


@pytest.mark.parametrize("size_hw", [(64, 64), (33, 150), (101, 77)])
@pytest.mark.parametrize("stride", [None, 16])
def test_both_modes_give_every_window_the_same_scores_on_noise(
    engine: TorchEngine, size_hw: tuple[int, int], stride: int | None
) -> None:
    levels = pyramid(noise(*size_hw), engine.card, Sliding(stride_px=stride, scale_step=1.5))
    _expect_equal(engine, levels)


@pytest.mark.parametrize(
    ("backbone", "stride", "window_px"),
    [("lenet5", 8, 64), ("efficientnet_lite0", 8, 96), ("alexnet", 8, 64), ("resnet18", 4, 48)],
)
def test_both_modes_give_every_window_the_same_scores_on_a_photo(
    photo: np.ndarray, backbone: str, stride: int, window_px: int
) -> None:
    engine = TorchEngine(*window_model(backbone, stride, window_px))
    _expect_equal(engine, pyramid(photo[:90, :110], engine.card, Sliding(scale_step=1.6)))


def _expect_equal(engine: TorchEngine, levels: list) -> None:
    at_once, one_by_one = conv_scores(engine, levels), window_scores(engine, levels, batch=7)
    for a, b, level in zip(at_once, one_by_one, levels, strict=True):
        assert a.scores.shape == b.scores.shape == (*level.grid_hw, 2)
        assert np.abs(a.scores - b.scores).max() < 1e-4
        assert np.allclose(a.boxes_xyxy, b.boxes_xyxy, atol=1e-3)
        assert (a.evaluations, b.evaluations) == (1, level.grid_hw[0] * level.grid_hw[1])
        assert min(a.seconds, b.seconds) > 0
    assert np.concatenate([one.scores.reshape(-1, 2) for one in at_once]).std() > 0.05


def test_a_coarser_stride_takes_every_other_window(engine: TorchEngine, photo: np.ndarray) -> None:
    fine = conv_scores(engine, pyramid(photo, engine.card))[0]
    coarse = conv_scores(engine, pyramid(photo, engine.card, Sliding(stride_px=16)))[0]
    rows, columns = coarse.scores.shape[:2]
    common = fine.scores[::2, ::2][:rows, :columns]
    assert np.allclose(common, coarse.scores[: common.shape[0], : common.shape[1]], atol=1e-5)


def test_windows_and_boxes_are_where_they_are_on_the_photo() -> None:
    class Fixed:
        """Scores of 1 for dog, boxes as the network would give them."""

        name, parallel, card = "fixed", 1, CARD

        def run(self, batch_rgb: np.ndarray) -> Outputs:
            count, height, width, _ = batch_rgb.shape
            y, x = np.mgrid[: (height - 64) // 8 + 1, : (width - 64) // 8 + 1] * 8 + 32
            centre = np.stack([x, y], 2).reshape(-1, 2)
            boxes = np.concatenate([centre - (25, 10), centre + (25, 10)], 1).astype(np.float32)
            scores = np.tile(np.float32([0.1, 0.8]), (count, len(boxes), 1))
            return Outputs(np.tile(boxes, (count, 1, 1)), scores)

    levels = pyramid(noise(100, 200), CARD, Sliding(scale_step=2.0))
    for score in (conv_scores, window_scores):
        native, half = score(Fixed(), levels)
        assert native.windows_xyxy[0, 0].tolist() == [-16, -16, 48, 48]
        assert native.windows_xyxy[1, 2].tolist() == [0, -8, 64, 56]
        assert half.windows_xyxy[0, 0].tolist() == [-32, -32, 96, 96]
        assert native.boxes_xyxy[0, 0].tolist() == [-9, 6, 41, 26]
        assert half.boxes_xyxy[0, 0].tolist() == [-18, 12, 82, 52]
        found = choose([native, half], Selection(0.5, 0.3))
        assert set(found.labels.tolist()) == {1}
        assert found.size_hw == (100, 200)
        assert (found.boxes_xyxy >= 0).all()
        assert (found.boxes_xyxy <= [200, 100, 200, 100]).all()
        assert len(choose([native, half], Selection(0.9, 0.3))) == 0


def test_a_network_with_other_cells_than_its_card_says_is_refused(engine: TorchEngine) -> None:
    lying = TorchEngine(engine.model, replace(engine.card, architecture={"stride": 4}))
    with pytest.raises(WeightsError, match="cells of the window model"):
        conv_scores(lying, pyramid(noise(100, 100), lying.card))


# detections


def test_both_modes_find_the_same_objects(engine: TorchEngine, photo: np.ndarray) -> None:
    at_once, one_by_one = (Predictor(engine, sliding=Sliding(mode)).predict(photo) for mode in ("conv", "window"))
    assert len(at_once) > 3
    assert np.allclose(at_once.boxes_xyxy, one_by_one.boxes_xyxy, atol=1e-3)
    assert np.allclose(at_once.scores, one_by_one.scores, atol=1e-4)
    assert Predictor(engine).predict(photo) == at_once  # conv is the default
    batch = Predictor(engine).predict_batch([photo, photo[:, ::-1].copy()])
    assert batch[0] == at_once
    assert batch[1] != at_once


def test_what_a_window_model_cannot_do_is_one_line(engine: TorchEngine, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tiles do nothing"):
        Predictor(engine, tiling=Tiling(128))
    with pytest.raises(UsageError, match="looks at its own size only"):
        Predictor(engine, size_px=128)
    with pytest.raises(UsageError, match="multiple of 8 px"):
        Predictor(engine, sliding=Sliding(stride_px=12))
    with pytest.raises(UsageError, match="are for window models; found a model for yolo"):
        Predictor(write_fake_model(tmp_path / "yolo.onnx"), sliding=Sliding())
    with pytest.raises(DataError, match=r"too small for the window model; found 100 x 31 px; expected at least 32 px"):
        Predictor(engine).predict(noise(31, 100))
    with pytest.raises(WeightsError, match="is no window model"):
        WindowDetector(TorchEngine(engine.model, replace(engine.card, architecture={"stride": "8"})))


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sliding") / "window.onnx"
    export_onnx(*window_model(), path)
    return path


def test_detect_goes_on_after_a_photo_smaller_than_the_window(
    model_file: Path, photo: np.ndarray, tmp_path: Path
) -> None:
    for name, image in (("a.png", photo), ("b.png", noise(20, 300)), ("c.png", photo)):
        write_image(tmp_path / name, image)
    both = []
    for mode in ("conv", "window"):
        done = CliRunner().invoke(app, ["detect", str(tmp_path), "-w", str(model_file), "--json", "--mode", mode])
        assert done.exit_code == 3, done.stderr
        records = json.loads(done.stdout)["images"]
        assert [record["kind"] for record in records] == ["photo", "error", "photo"]
        assert "b.png: is too small for the window model; found 300 x 20 px" in records[1]["error"]
        both.append([record["detections"] for record in records if record["kind"] == "photo"])
    assert len(both[0][0]) > 3
    assert [[one["box_xyxy"] for one in photo] for photo in both[0]] == [
        [one["box_xyxy"] for one in photo] for photo in both[1]
    ]


def test_detect_refuses_sliding_options_for_other_models(model_file: Path, photo: np.ndarray, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", photo)
    other = str(write_fake_model(tmp_path / "yolo.onnx"))
    for options, part in (
        (["-w", other, "--mode", "conv"], "are for window models"),
        (["-w", other, "--smallest", "20"], "are for window models"),
        (["-w", str(model_file), "--stride", "9"], "multiple of 8 px"),
        (["-w", str(model_file), "--scale-step", "0.5"], "scale step"),
        (["-w", str(model_file), "--tile", "200"], "tiles do nothing"),
    ):
        done = CliRunner().invoke(app, ["detect", str(tmp_path / "a.png"), "--no-pictures", *options])
        assert done.exit_code == 2, done.stderr
        assert part in done.stderr
        assert done.stderr.count("\n") == 1
