"""A web server on this machine for tests, which can do everything wrong that servers do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """Serves one content under any path.

    Args:
        content: the file.
        ranges: can begin in the middle.
        sends: how many bytes it sends before it closes the connection; None for all.
        tells_length: says how long the file is.
        status: what it answers with; 302 leads to `moved_to`.
        shifted: begins ranges so many bytes too late.
    """

    content: bytes
    ranges: bool = True
    sends: int | None = None
    tells_length: bool = True
    status: int = 200
    moved_to: str = ""
    shifted: int = 0
    url: str = ""
    asked: list[str | None] = field(default_factory=list)  # the Range of each request

    @contextmanager
    def running(self) -> Iterator[FileServer]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_port}/model.pth"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        own = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers.get("Range")
                own.asked.append(asked)
                start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and own.ranges else 0
                status = own.status if own.status != 200 else 206 if start else 200
                if status == 206 and start >= len(own.content):
                    status = 416
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", own.moved_to)
                body = own.content[start + own.shifted * bool(start) :] if status in (200, 206) else b"no"
                if status == 206:
                    first = start + own.shifted
                    self.send_header("Content-Range", f"bytes {first}-{len(own.content) - 1}/{len(own.content)}")
                if own.tells_length:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: own.sends])

            def log_message(self, *_: object) -> None:
                pass

        return Handler
