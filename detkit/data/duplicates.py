"""Photos that show the same: a perceptual hash, and groups of photos whose hashes differ in few bits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from detkit.opencv import load_cv2

HASH_BITS = 64
NEAR_BITS = 4  # scaled, recompressed and brightened copies mostly differ by less; other photos by 32 on average
_GRID_WH = (9, 8)


def image_hash(image_rgb: NDArray[np.uint8]) -> int:
    """The difference hash of a photo: for each of 8x8 places, whether it grows brighter to the right.

    Scaling, compression and changes of brightness or contrast turn few of its bits, or none.

    Args:
        image_rgb: uint8 [H, W, 3].
    Returns:
        64 bits; 0 for an image of one colour.
    """
    cv2 = load_cv2()
    grey = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    small = cv2.resize(grey, _GRID_WH, interpolation=cv2.INTER_AREA)  # [8, 9]
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


def near_duplicate_groups(hashes: Sequence[int], max_bits: int = NEAR_BITS) -> NDArray[np.int64]:
    """Group photos whose hashes differ in at most `max_bits` bits, directly or by way of others.

    Two such hashes agree in at least one of `max_bits` + 1 parts (Norouzi 2012), so only those are compared that do.

    Args:
        hashes: one for each photo, from `image_hash`.
        max_bits: 0 to 63.
    Returns:
        int64 [N], the same number for photos of one group, from 0 in order of first appearance.
    """
    if not 0 <= max_bits < HASH_BITS:
        raise ValueError(f"max_bits is {max_bits}; expected 0 to {HASH_BITS - 1}")
    distinct, photo_of = np.unique(np.array(hashes, np.uint64), return_inverse=True)
    groups = Groups(len(distinct))
    for part in range(max_bits + 1):
        mask = np.uint64(sum(1 << bit for bit in range(part, HASH_BITS, max_bits + 1)))
        order = np.argsort(distinct & mask, kind="stable")
        bounds = np.flatnonzero(np.diff(distinct[order] & mask)) + 1
        for members in np.split(order, bounds):
            for at, row in enumerate(members[:-1].tolist()):
                later = members[at + 1 :]
                groups.join(row, later[np.bitwise_count(distinct[later] ^ distinct[row]) <= max_bits].tolist())
    return in_order_of_appearance(groups.roots()[photo_of])


class Groups:
    """N things in groups that can only grow together."""

    def __init__(self, count: int) -> None:
        self._parents = list(range(count))

    def join(self, one: int, others: Iterable[int]) -> None:
        """Put one thing and the others in the same group."""
        for other in others:
            self._parents[self._root(other)] = self._root(one)

    def roots(self) -> NDArray[np.int64]:
        """int64 [N]: for each thing the same member of its group."""
        return np.array([self._root(row) for row in range(len(self._parents))], np.int64)

    def _root(self, row: int) -> int:
        parents = self._parents
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row


def in_order_of_appearance(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same numbers renamed: 0 for the first, 1 for the next other one, and so on; [N] in, [N] out."""
    _, first, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]
