"""The part of `detkit data check` that finds photos which are there twice, within a split and across splits."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detkit.data.check_photos import PhotoFacts, digest_of
from detkit.data.dataset import Dataset
from detkit.data.duplicates import near_duplicate_groups
from detkit.data.findings import Finding

_SAME_LEVELS, _SAME_CORRELATION = 8.0, 0.98  # of two thumbnails: root mean square of their grey difference; correlation
_FLAT_LEVELS = 3.0  # standard deviation of a thumbnail that shows nothing, where correlation says nothing
_CODES = {  # exact, across splits
    (True, False): "image-copy",
    (True, True): "leak",
    (False, False): "image-near-copy",
    (False, True): "near-leak",
}


def copies(datasets: Sequence[Dataset], facts: Iterable[PhotoFacts]) -> Iterator[Finding]:
    """Photos that are the same file as an earlier one, or look the same; the splits count in the order given."""
    known = {fact.path: fact for fact in facts if fact.fault is None}
    split_of: dict[Path, str] = {}
    for dataset in datasets:
        for sample in dataset:
            path = sample.image_path
            if split_of.setdefault(path, dataset.split) != dataset.split:
                what = f"in the splits {split_of[path]} and {dataset.split}"
                yield Finding("leak", what, path, photo=path)
    photos = [known[path] for path in split_of if path in known]
    digests = _digests(photos)
    for group in _groups(photos, digests):
        looks = _Looks([photos[row] for row in group], [digests[row] for row in group])
        for at, row in enumerate(group):
            path = photos[row].path
            earlier = [group[k] for k in looks.like_earlier(at)]
            for across in (False, True):
                twins = [k for k in earlier if (split_of[photos[k].path] != split_of[path]) == across]
                twins.sort(key=lambda k: digests[k] is None or digests[k] != digests[row])
                if twins:
                    exact = digests[row] is not None and digests[twins[0]] == digests[row]
                    yield _finding(path, photos[twins[0]].path, split_of, exact)


def _finding(path: Path, twin: Path, split_of: dict[Path, str], exact: bool) -> Finding:
    across = split_of[path] != split_of[twin]
    what = "the same file as" if exact else "looks the same as"
    where = f" of the split {split_of[twin]}" if across else ""
    return Finding(_CODES[exact, across], f"{what} {twin.name}{where}", path, photo=path, found=str(twin))


def _digests(photos: Sequence[PhotoFacts]) -> list[bytes | None]:
    """Each photo's digest; one that was not decoded is read only where another file has as many bytes."""
    counts = Counter(photo.byte_count for photo in photos)
    digests = [photo.digest for photo in photos]
    for row, photo in enumerate(photos):
        if digests[row] is None and counts[photo.byte_count] > 1:
            with suppress(OSError):
                digests[row] = digest_of(photo.path.read_bytes())
    return digests


def _groups(photos: Sequence[PhotoFacts], digests: Sequence[bytes | None]) -> Iterator[list[int]]:
    """Rows of photos that may be the same: of similar hash where that is known, else of equal digest."""
    looks = [photo.look for photo in photos]
    numbers = near_duplicate_groups([look or 0 for look in looks]) if photos else np.zeros(0, np.int64)
    members: dict[object, list[int]] = defaultdict(list)
    for row, number in enumerate(numbers.tolist()):
        key = digests[row] if looks[row] is None else number
        if key is not None:
            members[key].append(row)
    return (group for group in members.values() if len(group) > 1)


class _Looks:
    """N photos of one hash, told apart by their bytes and thumbnails: a hash alone takes two dark photos for one."""

    def __init__(self, photos: Sequence[PhotoFacts], digests: Sequence[bytes | None]) -> None:
        numbers: dict[bytes, int] = {}
        rows = enumerate(digests)
        self._files = np.array([-1 - k if d is None else numbers.setdefault(d, k) for k, d in rows])
        thumbnails = [photo.thumbnail for photo in photos if photo.thumbnail is not None]
        count = len(photos) if len(thumbnails) == len(photos) else 0
        flat = [thumbnail.ravel() for thumbnail in thumbnails[:count]]
        self._grey = np.array(flat, np.float32)  # [N, 256]
        self._deviation = self._grey.std(1) if count else np.zeros(0, np.float32)

    def like_earlier(self, at: int) -> list[int]:
        """Which photos before `at` are the same file or look the same."""
        same: NDArray[np.bool_] = self._files[:at] == self._files[at]
        if len(self._grey):
            mine, others = self._grey[at], self._grey[:at]
            difference = np.sqrt(((others - mine) ** 2).mean(1))
            products = ((others - others.mean(1, keepdims=True)) * (mine - mine.mean())).mean(1)
            correlation = products / np.maximum(self._deviation[:at] * self._deviation[at], 1e-9)
            nothing = np.maximum(self._deviation[:at], self._deviation[at]) < _FLAT_LEVELS
            same = same | ((difference <= _SAME_LEVELS) & ((correlation >= _SAME_CORRELATION) | nothing))
        return np.flatnonzero(same).tolist()
