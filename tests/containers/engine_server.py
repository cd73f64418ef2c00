"""A container engine that breaks: it speaks just enough of Docker's API over a Unix socket."""

from __future__ import annotations

import json
import re
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

Route = Callable[["Request"], None]
IMAGE = {
    "Id": f"sha256:{'1' * 64}",
    "RepoTags": ["old:1"],
    "Size": 5_000_000,
    "Architecture": "amd64",
    "Config": {"User": "1000:1000", "Labels": None, "Entrypoint": ["x"]},
    "RootFS": {"Layers": [f"sha256:{'2' * 64}"]},
    "Created": "2026-01-01T00:00:00Z",
}


class Request(BaseHTTPRequestHandler):
    """One request; a route answers it with the methods below, or breaks off."""

    protocol_version = "HTTP/1.1"

    def answer(self, value: Any, status: int = 200, kind: str = "application/json") -> None:
        """A whole answer."""
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, *pieces: bytes, whole: bool = True) -> None:
        """An answer in pieces; not whole: the connection ends in the middle."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if whole:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    def read_all(self) -> bytes:
        """The request's body, so that the client is not disturbed while it sends."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def address_string(self) -> str:
        """A Unix socket has none."""
        return ""

    def _route(self) -> None:
        self.body = self.read_all()
        path = re.sub(r"^/v[0-9.]+", "", self.path).partition("?")[0]
        routes: Mapping[str, Route] = self.server.routes  # type: ignore[attr-defined]
        for pattern, route in routes.items():
            if re.fullmatch(pattern, f"{self.command} {path}"):
                route(self)
                return
        self.answer({"message": f"no such route: {self.command} {path}"}, 404)

    do_GET = do_POST = do_DELETE = do_HEAD = _route


def answers(value: Any, status: int = 200) -> Route:
    """A route that always says the same."""
    return lambda request: request.answer(value, status)


def events(*lines: dict[str, Any], whole: bool = True) -> Route:
    """A route that streams JSON lines, as a build and a load do."""
    return lambda request: request.stream(*(json.dumps(line).encode() + b"\r\n" for line in lines), whole=whole)


DOCKER = {
    "GET /version": answers({"Version": "99.1", "ApiVersion": "1.41", "Os": "linux", "Arch": "amd64"}),
    "GET /info": answers({"DockerRootDir": "/", "CgroupVersion": "2", "SecurityOptions": []}),
    "GET /images/old:1/json": answers(IMAGE),
}


@contextmanager
def engine_server(path: Path, routes: Mapping[str, Route]) -> Iterator[str]:
    """Serve ``routes`` (``"METHOD /path"`` patterns, those of a plain Docker after them); yields DOCKER_HOST."""

    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True

    with Server(str(path), Request) as server:
        server.routes = {**routes, **{key: route for key, route in DOCKER.items() if key not in routes}}  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"unix://{path}"
        finally:
            server.shutdown()
            thread.join()
            path.unlink(missing_ok=True)
