"""Reading photos: large JPEGs whole against just as finely as the network needs them, and a compressed tar in order."""

from __future__ import annotations

import io
import tarfile
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np

from detkit.images import decode_image, decode_reduced, place, read_image
from detkit.infer.archive_reader import ArchiveReader
from detkit.infer.sources import find_items
from detkit.opencv import load_cv2

PHOTO = Path(__file__).resolve().parents[1] / "data/photos/chelsea.jpg"
CANVAS = (416, 416)
SIZES_WH = ((4000, 3000), (2048, 1536), (2047, 1533))
RUNS = 7


def best_ms(work: Callable[[], object]) -> float:
    """The shortest time of this thread, in milliseconds: other programs on the machine do not count."""
    times = []
    for _ in range(RUNS):
        start_s = time.thread_time()
        work()
        times.append(time.thread_time() - start_s)
    return 1000 * min(times)


def measure_decoding() -> None:
    cv2 = load_cv2()
    cv2.setNumThreads(1)
    photo_bgr = read_image(PHOTO)[:, :, ::-1]
    for width, height in SIZES_WH:
        large = cv2.resize(photo_bgr, (width, height), interpolation=cv2.INTER_CUBIC)
        data = cv2.imencode(".jpg", large, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()

        def whole(data: bytes = data) -> object:
            return place(decode_image(data, "a"), CANVAS, "letterbox")

        def reduced(data: bytes = data) -> object:
            pixels, full_hw = decode_reduced(data, "a", CANVAS)
            return place(pixels, CANVAS, "letterbox", image_hw=full_hw)

        whole_ms, reduced_ms = best_ms(whole), best_ms(reduced)
        print(
            f"{width} x {height} JPEG to {CANVAS[0]} px: whole {whole_ms:.1f} ms, reduced {reduced_ms:.1f} ms, "
            f"{whole_ms / reduced_ms:.1f} times as fast"
        )


def seconds_to_read(folder: Path, count: int) -> float:
    """CPU seconds to read that many photos of a .tar.gz in order."""
    rng, path = np.random.default_rng(0), folder / f"{count}.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for number in range(count):
            info = tarfile.TarInfo(f"{number}.jpg")
            info.size = 50_000
            archive.addfile(info, io.BytesIO(rng.bytes(info.size)))
    items = find_items(path)
    start_s = time.process_time()
    with closing(ArchiveReader()) as reader:
        for item in items:
            reader.read(item)
    return time.process_time() - start_s


def main() -> None:
    measure_decoding()
    with tempfile.TemporaryDirectory() as folder:
        few, many = (seconds_to_read(Path(folder), count) for count in (500, 2000))
    print(f"a .tar.gz in order: 500 photos {few:.2f} s, 2,000 photos {many:.2f} s: {many / few:.1f} times (linear: 4)")


if __name__ == "__main__":
    main()
