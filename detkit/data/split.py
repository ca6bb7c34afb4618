"""Divide a data set anew: classes in the same shares everywhere, photos that show the same in one split.

Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011) over groups of photos instead of single photos.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from detkit.data.dataset import Dataset, Sample
from detkit.data.duplicates import NEAR_BITS, Groups, image_hash, in_order_of_appearance, near_duplicate_groups
from detkit.errors import DataError, UsageError
from detkit.images import read_image

_FRAME_BITS = 16  # neighbours in a video rarely differ by more; photos of different things rarely by less
_EXPORTED = re.compile(r"(_(jpe?g|png|bmp|webp|tiff?))?\.rf\.[0-9a-f]{8,}$", re.IGNORECASE)  # Roboflow's copies
_NUMBERED = re.compile(r"(.*?)([0-9]{1,12})")
Ints = NDArray[np.int64]


def pool(datasets: Sequence[Dataset]) -> Dataset:
    """All splits as one; names and ids that two splits share are made distinct."""
    named = [(dataset.split, sample) for dataset in datasets for sample in dataset]
    unique_names = len({sample.name for _, sample in named}) == len(named)
    unique_ids = len({sample.image_id for _, sample in named}) == len(named)
    samples = [
        replace(
            sample,
            name=sample.name if unique_names else f"{split}_{sample.name}" if split else sample.name,
            image_id=sample.image_id if unique_ids else number,
        )
        for number, (split, sample) in enumerate(named, 1)
    ]
    return replace(datasets[0], samples=tuple(samples), split="")


def hash_photos(dataset: Dataset) -> Iterator[int]:
    """The perceptual hash of each photo, in order; photos are read on all cores.

    Raises:
        DataError: a photo cannot be read.
    """
    with ThreadPoolExecutor(os.cpu_count()) as readers:
        yield from readers.map(lambda sample: image_hash(read_image(sample.image_path)), dataset)


def group_photos(dataset: Dataset, hashes: Sequence[int], frame_gap: int) -> Ints:
    """Group photos that belong in one split: near-duplicates, exported copies of one photo, and video neighbours.

    Neighbours are photos whose names differ only in a number at the end, by at most `frame_gap`, and which look alike;
    where most neighbours of one name look alike it is a video, and all of them count.

    Args:
        dataset: N photos.
        hashes: their perceptual hashes.
        frame_gap: 0 for near-duplicates only.
    Returns:
        int64 [N], the same number for photos of one group.
    """
    groups = Groups(len(dataset))
    for members in _members(near_duplicate_groups(hashes, NEAR_BITS)):
        groups.join(members[0], members[1:])
    series: dict[str, list[tuple[int, int]]] = defaultdict(list)
    first_of: dict[str, int] = {}
    for row, sample in enumerate(dataset):
        name = _EXPORTED.sub("", sample.name.replace("\\", "/").rpartition(".")[0])
        groups.join(first_of.setdefault(name, row), [row])
        if (match := _NUMBERED.fullmatch(name)) is not None:
            series[match[1]].append((int(match[2]), row))
    for frames in series.values() if frame_gap else ():
        frames.sort()
        near = [(a, b) for (m, a), (n, b) in pairwise(frames) if n - m <= frame_gap]
        alike = [(a, b) for a, b in near if (hashes[a] ^ hashes[b]).bit_count() <= _FRAME_BITS]
        for one, other in near if 2 * len(alike) > len(near) > 1 else alike:
            groups.join(one, [other])
    return in_order_of_appearance(groups.roots())


def _members(groups: Ints) -> list[list[int]]:
    """The rows of each group of two or more."""
    members: dict[int, list[int]] = defaultdict(list)
    for row, group in enumerate(groups.tolist()):
        members[group].append(row)
    return [rows for rows in members.values() if len(rows) > 1]


def stratify(dataset: Dataset, groups: Ints, ratios: Sequence[float], seed: int = 0) -> Ints:
    """Choose a split for each photo so that every class, and photos without boxes, are shared out by the ratios.

    Where the groups allow it, each split gets every class that has as many photos as there are splits.

    Args:
        dataset: N photos.
        groups: int64 [N], from 0; a group stays together.
        ratios: share of each split, above 0; the sum is 1.
        seed: of the order in which equals are served.
    Returns:
        int64 [N], indices into `ratios`.
    Raises:
        UsageError: the ratios are wrong.
        DataError: fewer groups than splits, or a split would stay empty.
    """
    shares = np.array(ratios, np.float64)
    if len(shares) < 2 or not (shares > 0).all() or abs(shares.sum() - 1) > 1e-6:
        raise UsageError("the ratios are wrong", found=list(ratios), expected="two or more above 0 whose sum is 1")
    counts = np.zeros((int(groups.max()) + 1, len(dataset.class_names) + 2), np.int64)  # [G, K + 2]
    np.add.at(counts, groups, _presence(dataset))
    chosen = _shared_out(counts, shares, np.random.default_rng(seed))
    _mend_missing(chosen, counts[:, :-2], len(shares))
    if empty := set(range(len(shares))) - set(chosen.tolist()):
        found = f"{len(counts)} groups of {len(dataset)} photos"
        raise DataError(f"split {min(empty) + 1} would be empty", file=dataset.source, found=found)
    return chosen[groups]


def _presence(dataset: Dataset) -> Ints:
    """[N, K + 2]: whether the photo shows each class, whether it shows none, and 1 for the photo itself."""
    presence = np.zeros((len(dataset), len(dataset.class_names) + 2), np.int64)
    for row, sample in enumerate(dataset):
        presence[row, sample.truth.labels] = 1
    presence[:, -2] = presence.sum(1) == 0
    presence[:, -1] = 1
    return presence


def _shared_out(counts: Ints, shares: NDArray[np.float64], rng: np.random.Generator) -> Ints:
    """A split for each group: the rarest label first, each of its groups to the split that lacks it most."""
    wanted = shares[:, None] * counts.sum(0)  # [S, K + 2], photos still to come
    chosen = np.full(len(counts), -1)
    shuffled = rng.permutation(len(counts))
    order = shuffled[np.argsort(-counts[shuffled, -1], kind="stable")]  # large groups while there is room
    while (open_groups := order[chosen[order] < 0]).size:
        left = counts[open_groups, :-1].sum(0)
        label = int(np.where(left > 0, left, left.max() + 1).argmin())
        for group in open_groups[counts[open_groups, label] > 0].tolist():
            need = np.stack([wanted[:, label], wanted[:, -1], rng.random(len(shares))])
            split = int(np.lexsort(need[::-1].round(9))[-1])
            chosen[group] = split
            wanted[split] -= counts[group]
    return chosen


def _mend_missing(chosen: Ints, counts: Ints, split_count: int) -> None:
    """Move single groups into splits that lack a class, from splits that lose none by it; changes `chosen`."""
    has = counts > 0  # [G, K]
    enough = has.sum(0) >= split_count
    sizes = counts.sum(1)
    for label in np.argsort(has.sum(0), kind="stable").tolist():
        for split in range(split_count):
            if not enough[label] or has[chosen == split, label].any():
                continue
            per_split = np.array([has[chosen == other].sum(0) for other in range(split_count)])  # [S, K]
            loses = (has & enough & (per_split[chosen] == 1)).any(1) | (np.bincount(chosen)[chosen] == 1)  # [G]
            candidates = np.flatnonzero(has[:, label] & ~loses)
            if candidates.size:
                chosen[candidates[np.argmin(sizes[candidates])]] = split


def divide(dataset: Dataset, chosen: Ints, names: Sequence[str]) -> list[Dataset]:
    """The data set's photos as one data set per split, in their order; photo i goes to `names[chosen[i]]`."""
    parts: list[list[Sample]] = [[] for _ in names]
    for sample, split in zip(dataset, chosen.tolist(), strict=True):
        parts[split].append(sample)
    return [replace(dataset, samples=tuple(part), split=name) for name, part in zip(names, parts, strict=True)]
