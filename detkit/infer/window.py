"""A window that shows pictures as they are found, where there is a display."""

from __future__ import annotations

import os
import sys

from detkit.errors import MissingExtraError, UsageError
from detkit.images import Image
from detkit.opencv import load_cv2

_TITLE = "detkit"
_LEAVING_KEYS = frozenset({ord("q"), ord("Q"), 27})  # 27 is Escape


class PictureWindow:
    """Shows one picture after the other; it opens with the first."""

    def __init__(self) -> None:
        """Make sure that there is a display.

        Raises:
            UsageError: there is none.
        """
        if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise UsageError("--show needs a display", found="neither DISPLAY nor WAYLAND_DISPLAY is set")

    def show(self, image_rgb: Image) -> bool:
        """Show a picture; False once the user has had enough: q, Escape, or the window closed.

        Raises:
            MissingExtraError: this OpenCV has no windows (opencv-python-headless), or the display cannot be opened.
        """
        cv2 = load_cv2()
        try:
            cv2.imshow(_TITLE, image_rgb[:, :, ::-1])
            key = cv2.waitKey(1) & 0xFF
            return key not in _LEAVING_KEYS and cv2.getWindowProperty(_TITLE, cv2.WND_PROP_VISIBLE) >= 1
        except cv2.error as error:
            found = (str(error).splitlines() or [""])[0]
            raise MissingExtraError("this OpenCV cannot open a window", found=found) from error
