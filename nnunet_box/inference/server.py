"""A container that is asked over HTTP: ``GET /health`` until it is 200, then ``POST /invoke`` for the case it is given.

The contract of grand-challenge.org's "invoke" method (comic/grand-challenge.org, pull requests 4469 and 4671): the
model is loaded once, no body is sent, 201 says that the output is there.
"""

from __future__ import annotations

import json
import threading
import traceback
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from nnunet_box.errors import NnboxError
from nnunet_box.progress import say

HEALTH, INVOKE = "/health", "/invoke"
MOST_BODY_BYTES = 1 << 20
"""No body is expected; one is read up to here, so that the answer reaches whoever sends one all the same."""


def serve(predict: Callable[[], Any], port: int) -> None:
    """Answer until the process is told to end; ``predict`` is called once for each ``/invoke``, never twice at once.

    A case that fails is answered by 500 and the reason, and the server goes on.

    Raises
    ------
    NnboxError: the port is taken.
    """
    try:
        server = make_server(predict, port)
    except OSError as error:
        raise NnboxError(f"port {port}: cannot listen there ({error.strerror}). Is another server running?") from error
    say(f"Listening on port {port}: GET {HEALTH}, POST {INVOKE}")
    with server:
        server.serve_forever()


def make_server(predict: Callable[[], Any], port: int) -> ThreadingHTTPServer:
    """The server of ``serve``, bound to its port (0 for any that is free) and not yet answering."""
    one_at_a_time = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        """Both routes."""

        server_version = "nnbox"
        sys_version = ""
        timeout = 60

        def do_GET(self) -> None:
            """``/health``: the model is loaded before anybody is listened to, so whoever is answered may go on."""
            if self.path == HEALTH:
                self._answer(HTTPStatus.OK, {"status": "ready"})
            else:
                self._refuse(HEALTH if self.path != INVOKE else f"POST {INVOKE}")

        def do_POST(self) -> None:
            """``/invoke``: predict; a request that comes meanwhile waits."""
            length = self.headers.get("Content-Length") or "0"
            self.rfile.read(min(int(length) if length.isdecimal() else 0, MOST_BODY_BYTES))
            if self.path != INVOKE:
                self._refuse(INVOKE)
                return
            try:
                with one_at_a_time:
                    status, value = HTTPStatus.CREATED, predict()
            except NnboxError as error:
                say(f"nnbox: {error}")
                status, value = HTTPStatus.INTERNAL_SERVER_ERROR, {"error": str(error)}
            except Exception as error:
                say(traceback.format_exc())
                status, value = HTTPStatus.INTERNAL_SERVER_ERROR, {"error": f"{type(error).__name__}: {error}"}
            self._answer(status, value)

        def _refuse(self, instead: str) -> None:
            wrong_verb = self.path in (HEALTH, INVOKE)
            status = HTTPStatus.METHOD_NOT_ALLOWED if wrong_verb else HTTPStatus.NOT_FOUND
            self._answer(status, {"error": f"{self.command} {self.path}: there is {instead}"})

        def _answer(self, status: HTTPStatus, value: Any) -> None:
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Requests go where all messages go; the many for ``/health`` are not told."""
            if getattr(self, "path", "") != HEALTH:
                say(f"{self.address_string()} {format % arguments}")

    server = ThreadingHTTPServer(("", port), Handler)
    server.daemon_threads = True
    return server
