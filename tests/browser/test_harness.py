"""The harness notices what the pages' tests rely on it for."""

from __future__ import annotations

import http.server
import threading

import pytest

pytestmark = pytest.mark.browser

GOOD = '<!doctype html><html lang="en"><head><title>t</title></head><body><main><h1>One</h1>{}</main></body></html>'


def written(folder, inside):
    page = folder / "page.html"
    page.write_text(GOOD.format(inside), encoding="utf-8")
    return page


def test_a_page_without_fault_has_none(open_page, tmp_path):
    page = written(tmp_path, "<p>text</p>")
    opened = open_page(page)
    assert (opened.errors, opened.axe(), opened.foreign_requests(page.as_uri())) == ([], [], [])
    assert opened.requests == [page.as_uri()]


@pytest.mark.parametrize(
    ("inside", "told"),
    [
        ("<script>console.error('said so')</script>", "said so"),
        ("<script>throw new Error('thrown so')</script>", "not caught: thrown so"),
        ("<script>Promise.reject(new Error('rejected so'))</script>", "not caught: rejected so"),
        ("<script src='gone.js'></script>", "gone.js: net::ERR_FILE_NOT_FOUND"),
    ],
)
def test_errors_are_written_down(open_page, tmp_path, inside, told):
    opened = open_page(written(tmp_path, inside))
    opened.page.wait_for_timeout(100)
    assert any(told in error for error in opened.errors), opened.errors


def test_requests_to_elsewhere_are_written_down(open_page, tmp_path):
    class Nothing(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404)
            self.send_header("Content-Type", "image/png")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *what):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Nothing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}"
        page = written(
            tmp_path, f"<img alt='' src='http://{address}/a.png'><script>new WebSocket('ws://{address}/b')</script>"
        )
        opened = open_page(page)
        opened.page.wait_for_timeout(200)
        server.shutdown()
    assert sorted(opened.foreign_requests(page.as_uri())) == [f"http://{address}/a.png", f"ws://{address}/b"]
    assert f"http://{address}/a.png: 404" in opened.errors, opened.errors


def test_axe_tells_rule_and_place_whatever_the_page_forbids(open_page, tmp_path):
    forbid = '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'">'
    opened = open_page(written(tmp_path, f'{forbid}<img id="bare" src="data:,">'))
    assert any(line.startswith("image-alt (critical)") and "#bare" in line for line in opened.axe()), opened.axe()


def test_width_and_colours_are_as_asked(open_page, tmp_path):
    asked = "[innerWidth, matchMedia('(prefers-color-scheme: dark)').matches]"
    page = written(tmp_path, "")
    assert open_page(page, width=400, dark=True).page.evaluate(asked) == [400, True]
    assert open_page(page).page.evaluate(asked) == [1400, False]
