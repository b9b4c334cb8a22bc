"""A real HTTP server of files on 127.0.0.1 that can do what bad networks and servers do."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Files:
    """What is served, and how; a test may change it between requests."""

    contents: dict[str, bytes]
    """By path: `/a.zip`."""
    url: str = ""
    etag: str | None = '"one"'
    knows_ranges: bool = True
    breaks_after: list[int] = field(default_factory=list)
    """For each coming request, how many bytes of its answer to send before the connection is cut."""
    errors: list[int] = field(default_factory=list)
    """Status of each coming request, before anything else."""
    requests: list[str] = field(default_factory=list)
    """Range of each request so far, or nothing."""


@contextmanager
def serving_files(**contents: bytes) -> Iterator[Files]:
    """Serve contents by name (`a_zip` is /a.zip) until the block ends."""
    files = Files({f"/{name.replace('_', '.')}": content for name, content in contents.items()})

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

        def do_GET(self) -> None:
            files.requests.append(self.headers.get("Range", ""))
            if files.errors:
                self.send_error(files.errors.pop(0))
                return
            content = files.contents.get(self.path)
            if content is None:
                self.send_error(404)
                return
            start = self._start(len(content))
            if start is not None and start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200 if start is None else 206)
            if start is not None:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            body = content[start or 0 :]
            self.send_header("Content-Length", str(len(body)))
            if files.etag:
                self.send_header("ETag", files.etag)
            self.end_headers()
            self.wfile.write(body[: files.breaks_after.pop(0)] if files.breaks_after else body)
            self.close_connection = True

        def _start(self, length: int) -> int | None:
            given, condition = self.headers.get("Range"), self.headers.get("If-Range")
            if not files.knows_ranges or given is None or (condition is not None and condition != files.etag):
                return None
            return int(given.removeprefix("bytes=").rstrip("-"))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    files.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield files
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
