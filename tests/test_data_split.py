"""Dividing a data set: classes in equal shares, groups that stay together, and what shows the same is a group."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detkit.data import coco
from detkit.data.dataset import Dataset, Sample
from detkit.data.duplicates import image_hash, near_duplicate_groups
from detkit.data.split import divide, group_photos, hash_photos, pool, stratify
from detkit.detections import Detections
from detkit.errors import DataError, UsageError
from detkit.images import read_image, write_image

RATIOS = (0.8, 0.1, 0.1)


def made(classes: Sequence[Sequence[int]], names: Sequence[str] = (), split: str = "") -> Dataset:
    """A data set whose photo i shows `classes[i]`; no files."""
    samples = []
    for row, labels in enumerate(classes):
        boxes_xyxy = np.tile(np.array([1, 1, 5, 5], np.float32), (len(labels), 1))
        name = names[row] if names else f"{row:04}.jpg"
        truth = Detections((10, 10), boxes_xyxy, np.array(labels, np.int64))
        samples.append(Sample(name, Path(name), truth, row + 1))
    count = max((label for labels in classes for label in labels), default=0) + 1
    return Dataset("made", tuple("abcdefghij"[:count]), tuple(samples), Path("x"), "coco", split, tuple(range(count)))


def shares(dataset: Dataset, chosen: np.ndarray, label: int, splits: int = 3) -> list[int]:
    """How many photos of each split show a class."""
    shown = np.array([(sample.truth.labels == label).any() for sample in dataset])
    return [int((shown & (chosen == split)).sum()) for split in range(splits)]


def test_every_class_and_the_empty_photos_are_shared_out_by_the_ratios() -> None:
    rng = np.random.default_rng(1)
    odds = np.array([0.7, 0.3, 0.1, 0.03])
    dataset = made([np.flatnonzero(rng.random(4) < odds).tolist() for _ in range(1000)])
    chosen = stratify(dataset, np.arange(1000), RATIOS)
    assert np.abs(np.bincount(chosen) / 1000 - RATIOS).max() <= 0.01
    for label in range(4):
        counts = np.array(shares(dataset, chosen, label))
        assert np.abs(counts - counts.sum() * np.array(RATIOS)).max() <= 2
    empty = np.array([not len(sample.truth) for sample in dataset])
    assert np.abs(np.bincount(chosen[empty]) - empty.sum() * np.array(RATIOS)).max() <= 2


def test_the_seed_decides() -> None:
    dataset = made([[row % 2] for row in range(100)])
    first, again, other = (stratify(dataset, np.arange(100), RATIOS, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_rare_class_gets_into_every_split_where_its_photos_suffice() -> None:
    dataset = made([[0]] * 97 + [[0, 1]] * 3)
    for seed in range(5):
        assert shares(dataset, stratify(dataset, np.arange(100), RATIOS, seed), 1) == [1, 1, 1]
    two = made([[0]] * 98 + [[0, 1]] * 2)
    assert sorted(shares(two, stratify(two, np.arange(100), RATIOS), 1)) == [0, 0, 2]
    bound = np.concatenate([np.arange(97), [97, 97, 97]])  # three photos of one group cannot part
    assert sorted(shares(dataset, stratify(dataset, bound, RATIOS), 1)) == [0, 0, 3]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_groups_stay_together_and_no_split_is_empty(data: st.DataObject) -> None:
    count = data.draw(st.integers(3, 40))
    classes = data.draw(st.lists(st.sets(st.integers(0, 4)), min_size=count, max_size=count))
    groups = np.array(data.draw(st.lists(st.integers(0, 30), min_size=count, max_size=count)))
    groups = np.unique(groups, return_inverse=True)[1]
    dataset = made([sorted(labels) for labels in classes])
    try:
        chosen = stratify(dataset, groups, (0.5, 0.25, 0.25), data.draw(st.integers(0, 5)))
    except DataError:
        return
    assert set(chosen.tolist()) == {0, 1, 2}
    for group in range(groups.max() + 1):
        assert len(set(chosen[groups == group].tolist())) == 1
    for label in range(len(dataset.class_names)):
        holders = {group for group, labels in zip(groups.tolist(), classes, strict=True) if label in labels}
        if len(holders) == count:  # every photo a group of its own, all showing it
            assert 0 not in shares(dataset, chosen, label)


def test_too_few_groups_and_wrong_ratios_are_refused() -> None:
    dataset = made([[0]] * 4)
    with pytest.raises(DataError, match="2 groups of 4 photos"):
        stratify(dataset, np.array([0, 0, 0, 1]), RATIOS)
    for ratios in ((1.0,), (0.8, 0.1), (0.9, 0.2, -0.1), (1.0, 0.0)):
        with pytest.raises(UsageError, match="ratios"):
            stratify(dataset, np.arange(4), ratios)


def test_pooled_names_and_ids_are_distinct_and_parts_keep_the_order() -> None:
    one, two = made([[0], []], split="train"), made([[0]], split="val")
    whole = pool([one, two])
    assert [sample.name for sample in whole] == ["train_0000.jpg", "train_0001.jpg", "val_0000.jpg"]
    assert [sample.image_id for sample in whole] == [1, 2, 3]
    assert [sample.name for sample in pool([one])] == ["0000.jpg", "0001.jpg"]
    parts = divide(whole, np.array([1, 0, 1]), ("train", "test"))
    assert [(part.split, [s.image_id for s in part]) for part in parts] == [("train", [2]), ("test", [1, 3])]


def groups_of(names: Sequence[str], hashes: Sequence[int], frame_gap: int = 30) -> list[int]:
    return group_photos(made([[0]] * len(names), names), hashes, frame_gap).tolist()


FAR = [0, (1 << 40) - 1, (1 << 60) - (1 << 20), (1 << 64) - (1 << 34), 0xAAAAAAAAAAAAAAAA]  # 24 bits apart and more


def test_names_group_exported_copies_and_frames_of_a_video() -> None:
    copies = ["cat_jpg.rf.0123456789ab.jpg", "cat_jpg.rf.ba9876543210.jpg", "cat.rf.0000000000aa.jpg", "dog.jpg"]
    assert groups_of(copies, FAR[:4]) == [0, 0, 0, 1]
    assert groups_of(["000001.jpg", "000002.jpg", "000003.jpg"], FAR[:3]) == [0, 1, 2]  # numbered, and not alike
    walk = [0, 0xFFF, 0xFFF000 | 0xFFF, 0xFFFFFF000 | 0xFFFFFF]  # each 12 bits from the one before
    assert groups_of(["a_10.jpg", "a_20.jpg", "a_30.jpg", "b_40.jpg"], walk) == [0, 0, 0, 1]
    assert groups_of(["a_10.jpg", "a_20.jpg", "a_300.jpg"], walk[:3]) == [0, 0, 1]  # too far apart
    assert groups_of(["a_10.jpg", "a_20.jpg", "a_30.jpg"], walk[:3], frame_gap=0) == [0, 1, 2]
    cut = ["v1.jpg", "v2.jpg", "v3.jpg", "v4.jpg"]  # a cut within a video, most of whose frames are alike
    assert groups_of(cut, [0, 0xFFF, FAR[4], FAR[4] ^ 0xFF0]) == [0, 0, 0, 0]


def test_near_duplicate_groups_of_hand_made_hashes() -> None:
    assert near_duplicate_groups([], 4).tolist() == []
    assert near_duplicate_groups([5, 5, 7, FAR[1], 5], 0).tolist() == [0, 0, 1, 2, 0]
    assert near_duplicate_groups([0, 0b1111, 0b11111111, FAR[4]], 4).tolist() == [0, 0, 0, 1]  # by way of the middle
    assert near_duplicate_groups([0, 0b11111, FAR[4]], 4).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="max_bits"):
        near_duplicate_groups([0], 64)


@settings(max_examples=40, deadline=None)
@given(
    start=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=6),
    flips=st.lists(st.tuples(st.integers(0, 5), st.sets(st.integers(0, 63), max_size=9)), max_size=25),
    max_bits=st.integers(0, 12),
)
def test_near_duplicate_groups_are_those_of_all_pairs(start: list[int], flips: list, max_bits: int) -> None:
    hashes = [*start, *(start[at % len(start)] ^ sum(1 << bit for bit in bits) for at, bits in flips)]
    expected = list(range(len(hashes)))
    for one in range(len(hashes)):
        for other in range(one):
            if (hashes[one] ^ hashes[other]).bit_count() <= max_bits:
                expected = [expected[one] if group == expected[other] else group for group in expected]
    found = near_duplicate_groups(hashes, max_bits).tolist()
    assert found == [list(dict.fromkeys(expected)).index(group) for group in expected]


def test_the_hash_survives_scaling_and_brightness_and_tells_photos_apart(repo: Path, tmp_path: Path) -> None:
    photos = sorted((repo / "tests/data/photos").glob("*.jpg"))
    images = [read_image(path) for path in photos]
    hashes = [image_hash(image) for image in images]
    for image, own in zip(images, hashes, strict=True):
        write_image(tmp_path / "copy.jpg", np.clip(image[::2, ::2] * 0.8 + 10, 0, 255).astype(np.uint8))
        assert (image_hash(read_image(tmp_path / "copy.jpg")) ^ own).bit_count() <= 4
    assert min((a ^ b).bit_count() for i, a in enumerate(hashes) for b in hashes[:i]) > 12
    assert image_hash(np.zeros((3, 5, 3), np.uint8)) == 0
    ramp = np.broadcast_to(np.arange(90, dtype=np.uint8)[None, :, None], (40, 90, 3))
    assert image_hash(np.ascontiguousarray(ramp)) == 2**64 - 1


def test_the_copies_in_a_real_set_are_found(shared_data: Path) -> None:
    """FDDB holds six photos twice, of 950; seen by eye, as is that no other group forms."""
    dataset = pool([coco.read(shared_data / "fddb", split) for split in ("train", "val")])
    groups = group_photos(dataset, list(hash_photos(dataset)), 30)
    assert np.bincount(np.bincount(groups)).tolist() == [0, 938, 6]
