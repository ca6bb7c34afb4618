"""Training a window classifier: which windows it is shown, hard negatives, and runs that go on bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from small_runs import make_shapes  # noqa: E402

from detkit.data.dataset import Dataset, Sample  # noqa: E402
from detkit.detections import Detections  # noqa: E402
from detkit.errors import DataError, WeightsError  # noqa: E402
from detkit.images import write_image  # noqa: E402
from detkit.infer.crops import windows_cxcys  # noqa: E402
from detkit.infer.predictor import Predictor  # noqa: E402
from detkit.infer.pyramid import Sliding  # noqa: E402
from detkit.infer.sliding import WindowDetector  # noqa: E402
from detkit.models.checkpoint import load_tensors  # noqa: E402
from detkit.models.window import WindowSettings  # noqa: E402
from detkit.train.fit import Fit  # noqa: E402
from detkit.train.loader import PhotoCache  # noqa: E402
from detkit.train.prepare import new_card  # noqa: E402
from detkit.train.run_folder import RunFolder  # noqa: E402
from detkit.train.settings import TrainSettings, resolve  # noqa: E402
from detkit.train.window_crops import (  # noqa: E402
    ExampleSettings,
    WindowCrops,
    learnable_objects,
    mean_shapes,
    overlap_with,
    smallest_px,
)
from detkit.train.window_task import Windowing, hard_negatives  # noqa: E402

WINDOW_PX = 40
PLAIN = ExampleSettings(rotation_deg=0, flip=0, hue_deg=0, saturation=0, brightness=0, contrast=0)


def dataset(folder: Path, *truths: Detections) -> Dataset:
    """One noisy photo for each truth."""
    samples = []
    for number, truth in enumerate(truths):
        path = folder / f"{number}.png"
        pixels = np.random.default_rng(number).integers(0, 256, (*truth.size_hw, 3), dtype=np.uint8)
        write_image(path, pixels)
        samples.append(Sample(path.name, path, truth, number + 1))
    return Dataset("two", ("red", "blue"), tuple(samples), folder, "coco", "train", (1, 2))


def truth(boxes: Sequence[Sequence[float]], labels: Sequence[int], crowd: Sequence[bool] | None = None) -> Detections:
    return Detections((120, 160), np.array(boxes, np.float32).reshape(-1, 4), labels, crowd=crowd)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_shapes(tmp_path_factory.mktemp("shapes"), 8)


def tiny(**changes: object) -> TrainSettings:
    base = TrainSettings(
        task="window",
        epochs=3,
        batch_size=8,
        size_px=WINDOW_PX,
        precision="fp32",
        self_test=False,
        window=WindowSettings("lenet5", pretrained=False, stride=4, hidden=16),
        examples=ExampleSettings(repeats=1, negatives=2, mining_photos=6),
    )
    return resolve(replace(base, **changes))  # type: ignore[arg-type]


def start(folder: Path, data: Dataset, settings: TrainSettings, *, begin: bool = True) -> Fit:
    card = new_card(data, None, settings, Windowing().card_fields(data, settings))
    fit = Fit(RunFolder(folder), data, data, settings, card)
    if begin:
        fit.begin()
    return fit


# which windows


def test_objects_to_learn_from_are_no_crowd_and_no_blur(tmp_path: Path) -> None:
    boxes = [[10, 10, 40, 50], [60, 60, 70, 74], [60, 60, 77, 70], [0, 0, 160, 120]]
    data = dataset(tmp_path, truth(boxes, [0, 0, 1, 1], [False, False, False, True]), truth([], []))
    # the window of a 14 px object has 16.8 px: enlarged 2.4 times to 40; that of 17 px has 20.4
    assert learnable_objects(data, 0.1, WINDOW_PX) == [(0, 0), (0, 2)]
    assert smallest_px(data, 0.1, WINDOW_PX) == pytest.approx(17 + 0.05 * 23, abs=0.06)
    with pytest.raises(DataError, match="no labelled box is large enough for the window"):
        learnable_objects(data, 0.1, 400)


def test_the_box_of_a_class_has_its_mean_shape_in_the_window(tmp_path: Path) -> None:
    data = dataset(tmp_path, truth([[0, 0, 20, 40], [0, 0, 60, 60], [0, 0, 100, 10]], [0, 0, 0], [False, False, True]))
    # windows of 48 and 72 px; the boxes are 5/12 by 10/12 and 10/12 by 10/12 of them
    wide, high = 40 * (5 + 10) / 24, 40 * 10 / 12
    assert mean_shapes(data, 0.1, WINDOW_PX) == ((wide, round(high, 1)), (wide, round(high, 1)))


def test_overlap_is_with_an_objects_own_window_and_a_crowds_box_is_taboo() -> None:
    own = truth([[40, 40, 80, 60], [0, 0, 20, 20]], [0, 0], [False, True])  # own window: 48 px around (60, 50)
    windows = np.array([[60.0, 50, 48], [60, 50, 24], [84, 50, 48], [150, 100, 30], [10, 10, 200]])
    assert overlap_with(windows, own, 0.1).tolist() == pytest.approx([1, 0.25, 1 / 3, 0, 1])
    assert overlap_with(windows, truth([], []), 0.1).tolist() == [0] * 5


def test_positives_show_their_object_and_negatives_none(shapes: Dataset) -> None:
    crops = WindowCrops(PhotoCache(shapes, 1000, 1 << 30), ExampleSettings(), WINDOW_PX)
    for index in range(2 * len(crops.objects)):
        rng = np.random.default_rng(index)
        if index % 2 == 0:
            photo, row = crops.objects[index // 2]
            own = windows_cxcys(shapes.samples[photo].truth.boxes_xyxy[[row]], 0.1)[0]
            window = crops._on_object(own, rng)
            assert overlap_with(window[None], shapes.samples[photo].truth, 0.1)[0] >= 0.7
        elif index // 2 < len(shapes):
            window = crops._background(index // 2, rng)
            assert overlap_with(window[None], shapes.samples[index // 2].truth, 0.1)[0] < 0.5
            height, width = shapes.samples[index // 2].truth.size_hw
            assert window[2] >= WINDOW_PX / 2
            assert (window[:2] - window[2] / 2 >= -window[2] / 4 - 1e-6).all()
            assert (window[:2] + window[2] / 2 <= np.array([width, height]) + window[2] / 4 + 1e-6).all()


def test_a_window_is_cut_where_it_lies_and_its_truth_with_it(tmp_path: Path) -> None:
    box = [40.0, 30, 70, 60]
    data = dataset(tmp_path, truth([box], [1]))
    pixels = PhotoCache(data, 1000, 1 << 30)
    sure = replace(PLAIN, positive_iou=0.999, negative_iou=0.4)  # nothing but the own window is near enough
    crops = WindowCrops(pixels, sure, 36)  # 36 px around the 30 px box, so nothing is resampled
    canvas, found = crops.make(0, 36, np.random.default_rng(0), closed=False)
    assert np.array_equal(canvas, pixels[0][0][27:63, 37:73])
    assert found.labels.tolist() == [1]
    assert found.boxes_xyxy[0].tolist() == pytest.approx([3, 3, 33, 33])
    _, none = crops.make(1, 36, np.random.default_rng(0), closed=False)
    assert len(none) == 0
    crops.hard = np.array([[0, 100.0, 60.0, 36.0]])
    canvas, none = crops.make(-1, 36, np.random.default_rng(0), closed=False)
    assert np.array_equal(canvas, pixels[0][0][42:78, 82:118])
    assert len(none) == 0


def test_an_epoch_shows_every_object_and_draws_the_background_by_the_settings(shapes: Dataset) -> None:
    settings = ExampleSettings(repeats=2, negatives=3, hard=0.5)
    crops = WindowCrops(PhotoCache(shapes, 1000, 1 << 30), settings, WINDOW_PX)
    count = len(crops.objects)
    order = crops.order(0, 0)
    assert len(order) == len(crops) == 8 * count
    assert (np.bincount(order[order % 2 == 0] // 2, minlength=count) == 2).all()
    assert (order % 2 == 1).sum() == 6 * count
    assert (order >= 0).all()
    crops.hard = np.zeros((5, 4))
    order = crops.order(0, 1)
    assert len(order) == 8 * count
    assert (order < 0).sum() == 3 * count
    assert set(order[order < 0].tolist()) == {-1, -2, -3, -4, -5}
    assert np.array_equal(order, crops.order(0, 1))
    assert not np.array_equal(order, crops.order(0, 2))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("margin", -1),
        ("near", 1.5),
        ("hard", -0.1),
        ("flip", 2),
        ("repeats", 0),
        ("negatives", 0),
        ("mining_rounds", -1),
        ("mining_photos", 0),
        ("negative_iou", 0.8),
        ("positive_iou", 1.0),
    ],
)
def test_a_bad_setting_is_named(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"examples.*{key}"):
        ExampleSettings(**{key: value})


def test_a_window_has_one_size() -> None:
    for changes in ({"size_px": 15}, {"multi_scale": 0.5}, {"grow": 0.5}):
        with pytest.raises(ValueError, match="a window has one size"):
            TrainSettings(task="window", **changes)  # type: ignore[arg-type]
    assert TrainSettings(task="window", size_px=49).sides_px(0.0) == (49,)


# runs


def test_hard_negatives_are_windows_of_background_that_score(shapes: Dataset, tmp_path: Path) -> None:
    fit = start(tmp_path / "run", shapes, tiny())
    assert isinstance(fit.canvases, WindowCrops)
    detector = WindowDetector(fit._engine())
    for photo, sample in enumerate(shapes):
        rows = hard_negatives(fit.canvases, detector, photo)
        assert 0 < len(rows) <= 30  # a network that has learnt nothing takes everything for an object
        assert (rows[:, 0] == photo).all()
        assert (overlap_with(rows[:, 1:], sample.truth, 0.1) < 0.5).all()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, shapes: Dataset) -> Path:
    """A run of 3 epochs that mines before the second and the third."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    list(start(folder, shapes, tiny()).run())
    return folder


@pytest.mark.parametrize("stops", [(1, 9), (4, 6)], ids=str)  # an epoch has 4 steps
def test_a_run_stopped_and_resumed_ends_bit_for_bit_as_one_left_alone(
    tmp_path: Path, shapes: Dataset, whole: Path, stops: Sequence[int]
) -> None:
    settings = tiny(val_every=9)
    fit = start(tmp_path / "parts", shapes, settings)
    assert fit.clock.epoch_steps == 4
    for stop in stops:
        *_, finish = fit.run(lambda at=stop, fit=fit: fit.position.step == at)
        assert not finish.complete
        fit = start(tmp_path / "parts", shapes, settings, begin=False)
        fit.resume()
        assert fit.position.step == stop
    list(fit.run())
    for number in (1, 2):
        ours, theirs = (np.load(run / f"hard-negatives-{number}.npy") for run in (tmp_path / "parts", whole))
        assert len(ours) > 0
        assert np.array_equal(ours, theirs)
    ours, theirs = (load_tensors(run / "last.safetensors")[0] for run in (tmp_path / "parts", whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_gives_a_model_that_finds_what_it_learnt(whole: Path, shapes: Dataset) -> None:
    predictor = Predictor(whole / "best.onnx")
    assert predictor.card.task == "window"
    assert predictor.card.smallest_px > 0
    assert predictor.card.anchors_wh_px[0][0][0] <= WINDOW_PX
    predictions = Windowing().predict(predictor.engine, shapes.samples)
    assert Windowing().figures(shapes, predictions)["AP50"] > 0.3


def test_both_modes_reach_the_same_figures(whole: Path, shapes: Dataset) -> None:
    figures = []
    for mode in ("conv", "window"):
        predictor = Predictor(whole / "best.onnx", conf=0.01, sliding=Sliding(mode, stride_px=12, scale_step=1.6))
        found = list(predictor.predict_files([sample.image_path for sample in shapes]))
        figures.append(Windowing().figures(shapes, found))
    assert figures[0] == pytest.approx(figures[1], abs=1e-6)
    assert figures[0]["AP50"] > 0.05


def test_a_run_without_its_hard_negatives_cannot_go_on_within_an_epoch(tmp_path: Path, shapes: Dataset) -> None:
    fit = start(tmp_path / "run", shapes, tiny())
    list(fit.run(lambda: fit.position.step == fit.clock.epoch_steps + 1))
    (tmp_path / "run" / "hard-negatives-1.npy").unlink()
    fit = start(tmp_path / "run", shapes, tiny(), begin=False)
    fit.resume()
    with pytest.raises(WeightsError, match="hard negatives of this run are missing"):
        list(fit.run())


def test_a_photo_too_small_for_the_window_has_no_detections(tmp_path: Path, shapes: Dataset) -> None:
    small = dataset(tmp_path, Detections.empty((10, 100), scored=False), truth([], []))
    fit = start(tmp_path / "run", shapes, tiny())
    found = Windowing().predict(fit._engine(), small.samples)
    assert [one.size_hw for one in found] == [(10, 100), (120, 160)]
    assert len(found[0]) == 0
