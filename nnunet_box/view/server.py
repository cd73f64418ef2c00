"""The viewer's server: one case, for one browser of this machine.

It listens on the loopback address alone. The address that is printed holds a token that works once: whoever comes first
with it gets a cookie, and only who has the cookie gets anything more. A request has to name this machine as its host,
so that a page elsewhere cannot have its own name point here; a file is found by a number in a list, never by a path.
"""

from __future__ import annotations

import hmac
import json
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from nnunet_box.errors import NnboxError
from nnunet_box.progress import say
from nnunet_box.report.overlay import COLOURS
from nnunet_box.view.case import ViewedCase
from nnunet_box.view.voxels import Stream, dice_by_label, image_stream, labels_stream
from nnunet_box.web import NIIVUE

LOOPBACK = "127.0.0.1"
HOSTS = (LOOPBACK, "localhost")
"""What a browser may call this machine; with a port behind it, whichever: a tunnel's other end has one of its own."""
IDLE_SECONDS = 60
PAGE = Path(__file__).resolve().parent / "page"

HEADERS = {
    # Styles are set from scripts by NiiVue, one by one, which this allows; its pictures are part of its script.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
SPENT = "This address worked once and is spent, or was never right. Run nnbox view again for a new one."
PLAIN, BINARY = "text/plain; charset=utf-8", "application/octet-stream"
FILES = {
    "/view.css": ("text/css; charset=utf-8", PAGE / "view.css"),
    "/view.js": ("text/javascript; charset=utf-8", PAGE / "view.js"),
    "/planes.js": ("text/javascript; charset=utf-8", PAGE / "planes.js"),
    "/niivue.js": ("text/javascript; charset=utf-8", NIIVUE),
}
INDEX = ("text/html; charset=utf-8", PAGE / "index.html")


@dataclass(frozen=True)
class Answer:
    """status, type and content of a response; further headers."""

    status: int
    kind: str
    content: bytes | Stream
    headers: Mapping[str, str]


def text(status: int, words: str, **headers: str) -> Answer:
    """A short answer in words."""
    return Answer(status, PLAIN, f"{words}\n".encode(), headers)


class Viewer:
    """What is answered to whom; ``answer`` is all of it, without a socket.

    case: what is shown. port: of the server; part of the cookie's name, as cookies are shared between ports.
    """

    def __init__(self, case: ViewedCase, port: int) -> None:
        self._case = case
        self._cookie = f"nnbox-view-{port}"
        self._token: str | None = secrets.token_urlsafe(32)
        self._secret = secrets.token_urlsafe(32)
        self._dice: dict[int, bytes] = {}
        self._entry = threading.Lock()
        self._reading = threading.Lock()
        self.address = f"http://{LOOPBACK}:{port}/?token={self._token}"

    def answer(self, method: str, target: str, host: str, cookies: str) -> Answer:
        """The response to one request. target: path and query. host, cookies: those headers, empty where missing."""
        if not _is_this_machine(host):
            return text(421, "This server answers for 127.0.0.1 and localhost only.")
        if method != "GET":
            return text(405, "GET only.", Allow="GET")
        parts = urlsplit(target)
        if parts.path == "/" and parts.query and self._enter(parse_qs(parts.query).get("token", [""])[0]):
            cookie = f"{self._cookie}={self._secret}; HttpOnly; SameSite=Strict; Path=/"
            return _file(*INDEX, {"Set-Cookie": cookie})
        if not self._is_known(cookies):
            return text(403, SPENT)
        return self._content(parts.path)

    def _enter(self, given: str) -> bool:
        """Whether the token is right and was not used; from then on it is."""
        with self._entry:
            right = self._token is not None and hmac.compare_digest(given.encode(), self._token.encode())
            if right:
                self._token = None
            return right

    def _is_known(self, cookies: str) -> bool:
        try:
            morsel = SimpleCookie(cookies).get(self._cookie)
        except CookieError:
            return False
        return morsel is not None and hmac.compare_digest(morsel.value.encode(), self._secret.encode())

    def _content(self, path: str) -> Answer:
        if path == "/":
            return _file(*INDEX, {})
        if path in FILES:
            return _file(*FILES[path], {})
        if path == "/case.json":
            return Answer(200, "application/json", json.dumps(_facts(self._case)).encode(), {})
        makers: dict[str, tuple[int, Callable[[int], Answer]]] = {
            "image": (len(self._case.channels), self._image),
            "labels": (len(self._case.layers), self._labels),
            "dice": (len(self._case.layers), self._dice_of),
        }
        kind, _, number = path.removeprefix("/").partition("/")
        count, make = makers.get(kind, (0, None))
        # The numbers there are, letter by letter: nothing else is taken for one.
        index = {str(one): one for one in range(count)}.get(number)
        if make is None or index is None:
            return text(404, "No such thing.")
        try:
            return make(index)
        except (NnboxError, ValueError) as error:
            say(f"nnbox view: {error}")
            return text(500, str(error))

    def _image(self, index: int) -> Answer:
        # One volume is read at a time, whatever a browser asks for at once.
        with self._reading:
            return Answer(200, BINARY, image_stream(self._case.channels[index][1], self._case.geometry), {})

    def _labels(self, index: int) -> Answer:
        with self._reading:
            return Answer(200, BINARY, labels_stream(self._case.layers[index].file, self._case.geometry), {})

    def _dice_of(self, index: int) -> Answer:
        reference = self._case.reference
        layer = self._case.layers[index]
        if reference is None or layer.reference:
            return text(404, "No reference to compare it with.")
        with self._reading:
            if index not in self._dice:
                self._dice[index] = json.dumps(dice_by_label(layer.file, reference.file)).encode()
        return Answer(200, "application/json", self._dice[index], {})


def _facts(case: ViewedCase) -> dict[str, Any]:
    """What the page has to know before it asks for voxels; no path is among it."""
    channels = [{"name": name, "hounsfield": ct} for (name, _), ct in zip(case.channels, case.hounsfield, strict=True)]
    return {
        "title": case.title,
        "dataset": case.dataset,
        "channels": channels,
        "layers": [{"name": layer.name, "reference": layer.reference} for layer in case.layers],
        "labels": {str(value): name for value, name in case.labels.items()},
        "colours": [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in COLOURS],
    }


def _is_this_machine(host: str) -> bool:
    name, _, port = host.partition(":")
    return name.lower() in HOSTS and (port.isdigit() or ":" not in host)


def _file(kind: str, path: Path, headers: Mapping[str, str]) -> Answer:
    return Answer(200, kind, path.read_bytes(), headers)


class Server(ThreadingHTTPServer):
    """viewer: what answers; its ``address`` is what a person opens."""

    daemon_threads = True
    block_on_close = False
    viewer: Viewer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away in the middle is no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    server: Server

    def version_string(self) -> str:
        """Nobody needs to know."""
        return "nnbox"

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not written down."""

    def __getattr__(self, name: str) -> Any:
        # http.server looks for do_METHOD; every method comes here, so that each gets the same headers.
        if name.startswith("do_"):
            return self._respond
        raise AttributeError(name)

    def _respond(self) -> None:
        host, cookies = self.headers.get("Host", ""), self.headers.get("Cookie", "")
        answer = self.server.viewer.answer(self.command, self.path, host, cookies)
        if self.command != "GET":
            # A body may follow that nobody reads.
            self.close_connection = True
        content = answer.content
        self.send_response(answer.status)
        length = content.length if isinstance(content, Stream) else len(content)
        own = {"Content-Type": answer.kind, "Content-Length": str(length)}
        if self.close_connection:
            own["Connection"] = "close"
        for name, value in {**HEADERS, **own, **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        for part in content.parts if isinstance(content, Stream) else (content,):
            self.wfile.write(part)


def open_server(case: ViewedCase, port: int) -> Server:
    """A server of one case; its ``serve_forever`` answers. port: 0 is any that is free.

    Raises
    ------
    NnboxError: the port is taken.
    """
    try:
        server = Server((LOOPBACK, port), _Handler)
    except OSError as error:
        raise NnboxError(f"--port {port}: {error.strerror or error}. Leave it out for any that is free.") from error
    server.viewer = Viewer(case, server.server_port)
    return server
